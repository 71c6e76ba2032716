"""What adapters make of pictures to start from: on the wire, and bought from the sandbox."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from PIL import Image as Pillow

from common.catalog import Catalog, Route
from common.errors import BadAnswer, JobFailed, ProviderError, Refused
from common.pictures import ImageLimits
from common.settings import PROVIDERS_BY_OPERATION
from common.task import ImageRequest, Operation
from tests.contracts.cases import CASES
from tests.contracts.conftest import Connect, Sandbox, read_document
from tests.contracts.scripted import Reply, Scripted, Seen
from tests.contracts.test_documents import check_body, form_fields
from workers.images import mask_in
from workers.providers import PROVIDERS
from workers.providers.base import Image, Job

Serve = Callable[..., Scripted]

SIDE = 128


def encoded(picture: Pillow.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def plain(colour: tuple[int, int, int], kind: str = "png") -> Image:
    picture = Pillow.new("RGB", (SIDE, SIDE), colour)
    return Image(encoded(picture, kind.upper()), kind)  # type: ignore[arg-type]


def half_clear() -> bytes:
    """A mask of which the left half is to be made anew."""
    mask = Pillow.new("RGBA", (SIDE, SIDE), (9, 8, 7, 255))
    mask.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE))
    return encoded(mask)


RED, GREEN = plain((230, 0, 0)), plain((0, 230, 0), "webp")


@dataclass(frozen=True)
class Edit:
    """How one provider is asked to edit."""

    path: str
    route: Route
    document: str = ""  # the stem of its file in openapi/; none: it is not described there
    document_path: str = ""
    images: int = 1
    masked_path: str = ""  # where a mask is taken, and where it goes then
    keeps_format: bool = True


_SD = Route("a1111", "default", quality={"standard": "20"})
EDITS = {
    "openai": Edit(
        "/images/edits", Route("openai", "gpt-image-2"), "openai", "", 16, "/images/edits"
    ),
    "compatible": Edit(
        "/images/edits", Route("compatible", "gpt-image-2"), "openai", "", 16, "/images/edits"
    ),
    "bfl": Edit("/v1/flux-2-pro", Route("bfl", "flux-2-pro"), "black-forest-labs", "", 8),
    "stability": Edit(
        "/v2beta/stable-image/generate/sd3", Route("stability", "sd3.5-large"), "stability"
    ),
    "ideogram": Edit(
        "/v1/ideogram-v3/remix",
        Route("ideogram", "ideogram-v3"),
        "ideogram",
        masked_path="/v1/ideogram-v3/edit",
    ),
    "gemini": Edit(
        "/models/gemini-3.1-flash-image:generateContent",
        Route("gemini", "gemini-3.1-flash-image"),
        "google-gemini",
        "/models/{modelsId}:generateContent",
        14,
    ),
    "a1111": Edit("/sdapi/v1/img2img", _SD, masked_path="/sdapi/v1/img2img"),
}
MASKED = sorted(name for name, edit in EDITS.items() if edit.masked_path)


def request(name: str, operation: Operation = "edit", **fields: Any) -> ImageRequest:
    return replace(CASES[name].request, operation=operation, **fields)


def mask_for(name: str) -> Image:
    form = PROVIDERS[name].mask_form
    return Image(mask_in(form, half_clear(), ImageLimits(10**6, 10**6)), "png")


def body_of(sent: Seen) -> dict[str, Any]:
    is_json = sent.headers["content-type"].startswith("application/json")
    return dict(sent.json()) if is_json else form_fields(sent)


def check(name: str, sent: Seen) -> None:
    """Hold a request against the provider's own description."""
    edit = EDITS[name]
    document = read_document(f"openapi/{edit.document}.json")
    post = document["paths"][edit.document_path or sent.path]["post"]
    kind = sent.headers["content-type"].partition(";")[0]
    newer = {"compatible": {"seed": {}, "negative_prompt": {}}}.get(name, CASES[name].newer)
    check_body(body_of(sent), post["requestBody"]["content"][kind]["schema"], document, newer)


@pytest.fixture(params=sorted(EDITS))
def name(request: pytest.FixtureRequest) -> str:
    """Each provider that edits, in turn."""
    return str(request.param)


def test_the_catalog_counts_on_those_that_edit() -> None:
    assert set(EDITS) == set(PROVIDERS_BY_OPERATION["edit"])
    asked = {
        route.provider
        for model in Catalog.load()
        for route in model.routes
        if "edit" in route.operations
    }
    assert asked == set(EDITS)


@pytest.mark.parametrize(
    ("name", "images", "masked"),
    [
        (name, images, masked)
        for name, edit in sorted(EDITS.items())
        for images in sorted({1, edit.images})
        for masked in ([False, True] if edit.masked_path else [False])
    ],
)
def test_an_edit_is_asked_for_as_the_provider_describes_it(
    connect: Connect, serve: Serve, name: str, images: int, masked: bool
) -> None:
    edit = EDITS[name]
    server = serve()
    server.replies = [Reply(CASES[name].accepts(server.url))]
    buyer = connect(name, server.url, sandbox=name == "openai")

    buyer.submit(
        request=request(
            name,
            seed=7,
            negative_prompt="blur",
            output_format="webp",
            user="a@b.example",
            moderation="low",
            strength=0.5,
        ),
        route=edit.route,
        images=(RED,) * images,
        mask=mask_for(name) if masked else None,
    )

    (sent,) = (seen for seen in server.seen if seen.method == "POST")
    assert sent.path == (edit.masked_path if masked else edit.path)
    assert b"a@b.example" not in sent.body
    if edit.document:
        check(name, sent)


def test_the_bytes_are_sent_as_they_came(connect: Connect, serve: Serve, name: str) -> None:
    edit = EDITS[name]
    server = serve()
    server.replies = [Reply(CASES[name].accepts(server.url))]

    connect(name, server.url).submit(
        request=request(name), route=edit.route, images=(GREEN, RED)[: edit.images]
    )

    for image in (GREEN, RED)[: edit.images]:
        body = server.seen[0].body
        assert image.data in body or base64.b64encode(image.data) in body
    assert b"image/webp" in server.seen[0].body or name in ("bfl", "a1111")


def colour(data: bytes, *box: int) -> tuple[int, int, int]:
    """The mean colour of a part, the edges in eighths."""
    picture = Pillow.open(io.BytesIO(data)).convert("RGB")
    across, down = picture.width / 8, picture.height / 8
    left, top, right, bottom = box or (0, 0, 8, 8)
    part = picture.crop(
        (round(left * across), round(top * down), round(right * across), round(bottom * down))
    )
    return part.resize((1, 1), Pillow.Resampling.BOX).getpixel((0, 0))  # type: ignore[return-value]


def test_an_edit_is_bought_once_and_shows_its_picture(
    connect: Connect, sandbox: Sandbox, name: str, prompt: str
) -> None:
    buyer = connect(name, sandbox.url + CASES[name].sandbox_path, sandbox=True)

    outcome = buyer.submit(prompt, request=request(name), route=EDITS[name].route, images=(RED,))
    picture = buyer.finish(outcome).pictures[0]

    assert sandbox.purchases(prompt) == 1
    red, green, blue = colour(picture.data)  # type: ignore[union-attr]
    assert red > 130 > max(green, blue)


@pytest.mark.parametrize("name", MASKED)
def test_only_what_the_mask_leaves_clear_is_made_anew(
    connect: Connect, sandbox: Sandbox, name: str, prompt: str
) -> None:
    buyer = connect(name, sandbox.url + CASES[name].sandbox_path, sandbox=True)

    outcome = buyer.submit(
        prompt,
        request=request(name),
        route=EDITS[name].route,
        images=(RED,),
        mask=mask_for(name),
    )
    picture = buyer.finish(outcome).pictures[0]

    assert colour(picture.data, 5, 0, 8, 8) == (230, 0, 0)  # type: ignore[union-attr]
    assert colour(picture.data, 0, 0, 3, 8) == (66, 99, 140)  # type: ignore[union-attr]


def test_what_is_no_picture_is_refused_and_not_bought(
    connect: Connect, sandbox: Sandbox, name: str, prompt: str
) -> None:
    buyer = connect(name, sandbox.url + CASES[name].sandbox_path, sandbox=True)

    with pytest.raises(ProviderError) as caught:
        buyer.submit(
            prompt,
            request=request(name),
            route=EDITS[name].route,
            images=(Image(b"GIF89a", "png"),),
        )

    assert type(caught.value) is (JobFailed if name == "a1111" else Refused)
    assert caught.value.billed == "no"
    assert sandbox.purchases(prompt) == 0


def test_a_variation_is_asked_for_as_openai_describes_it(connect: Connect, serve: Serve) -> None:
    server = serve()
    server.replies = [Reply(CASES["compatible"].accepts(server.url))]
    asked = request("compatible", "variation", prompt="", n=2, size="256x256", quality="standard")

    connect("compatible", server.url).submit(
        request=asked, route=Route("compatible", "dall-e-2"), count=2, images=(RED,)
    )

    (sent,) = server.seen
    document = read_document("openapi/openai.json")
    post = document["paths"]["/images/variations"]["post"]
    schema = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    check_body(form_fields(sent), schema, document, {})
    fields = form_fields(sent)
    del fields["image"]
    assert fields == {
        "model": "dall-e-2",
        "n": 2,
        "size": "256x256",
        "response_format": "b64_json",
    }


def test_a_variation_is_bought_and_shows_its_picture(connect: Connect, sandbox: Sandbox) -> None:
    buyer = connect("compatible", f"{sandbox.url}/compatible/v1", sandbox=True)
    asked = request("compatible", "variation", size="256x256")

    outcome = buyer.submit(request=asked, route=Route("compatible", "dall-e-2"), images=(RED,))
    picture = buyer.finish(outcome).pictures[0]

    red, green, blue = colour(picture.data)  # type: ignore[union-attr]
    assert red > 130 > max(green, blue)


def test_a_mask_loses_its_colours_and_nothing_else() -> None:
    limits = ImageLimits(10**6, 10**6)

    alpha = Pillow.open(io.BytesIO(mask_in("alpha", half_clear(), limits)))
    black = Pillow.open(io.BytesIO(mask_in("black", half_clear(), limits)))

    assert (alpha.mode, black.mode) == ("RGBA", "L")
    assert (alpha.getpixel((10, 9)), alpha.getpixel((100, 9))) == ((0, 0, 0, 0), (0, 0, 0, 255))
    assert (black.getpixel((10, 9)), black.getpixel((100, 9))) == (0, 255)


def test_the_strength_is_said_as_each_provider_understands_it(
    connect: Connect, serve: Serve
) -> None:
    told = {}
    for name, field in (
        ("a1111", "denoising_strength"),
        ("stability", "strength"),
        ("ideogram", "image_weight"),
    ):
        server = serve()
        server.replies = [Reply(CASES[name].accepts(server.url))]
        connect(name, server.url).submit(
            request=request(name, strength=0.25), route=EDITS[name].route, images=(RED,)
        )
        told[name] = body_of(server.seen[0])[field]

    assert told == {"a1111": 0.25, "stability": 0.25, "ideogram": 75}


def test_a_picture_of_an_edit_that_does_not_come_was_paid(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"data": [{"b64_json": "not base64"}]}))

    with pytest.raises(BadAnswer) as caught:
        connect("openai", server.url).submit(request=request("openai"), images=(RED,))

    assert caught.value.billed == "yes"


def test_a_job_of_an_edit_needs_its_pictures_no_more(connect: Connect, serve: Serve) -> None:
    server = serve()
    server.replies = [Reply(CASES["bfl"].accepts(server.url))]

    job = connect("bfl", server.url).submit(
        request=request("bfl"), route=EDITS["bfl"].route, images=(RED,)
    )

    assert isinstance(job, Job)
    assert RED.base64 not in str(job.state)
