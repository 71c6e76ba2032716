"""Edits and variations from the official client to the purchase, over the running system."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from PIL import Image

from tests.stack import KEY, Stack


@pytest.fixture(autouse=True)
def no_certificates_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK loads the files that these name, and fails without them, for plain HTTP as well."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{stack.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def prompt() -> str:
    """A prompt nobody else uses, to find its purchases by."""
    return f"a fox {uuid.uuid4().hex}"


def png(colour: tuple[int, ...], size: tuple[int, int] = (256, 256), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(out, kind)
    return out.getvalue()


def half_clear(size: tuple[int, int] = (256, 256)) -> bytes:
    """A mask whose left half is transparent."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    out = io.BytesIO()
    mask.save(out, "PNG")
    return out.getvalue()


def opened(url: str) -> Image.Image:
    answer = requests.get(url, timeout=20)
    assert answer.ok
    picture = Image.open(io.BytesIO(answer.content))
    picture.load()
    return picture.convert("RGB")


def finished(stack: Stack, answer: Any) -> dict[str, Any]:
    assert (answer.status, answer.data[0].url) == ("pending", "")
    task = stack.finished({"id": answer.id, "poll_url": answer.poll_url})
    assert task["status"] == "completed", task
    return task


def test_an_edit_is_a_task_and_shows_its_image(
    stack: Stack, client: openai.OpenAI, prompt: str
) -> None:
    answer = client.images.edit(image=("a.png", png((255, 0, 0))), prompt=prompt)
    task = finished(stack, answer)

    assert task["model"] == "gpt-image-2"
    assert (task["size"], task["object"]) == ("1024x1024", "image.generation.task")
    red, green, blue = opened(task["data"][0]["url"]).resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 140 > max(green, blue)
    assert len(stack.purchases(prompt)) == 1


def test_several_images_and_a_mask_with_prefer(stack: Stack, prompt: str) -> None:
    with openai.OpenAI(
        api_key=KEY, base_url=f"{stack.url}/v1", default_headers={"Prefer": "wait=60"}
    ) as client:
        answer = client.images.edit(
            image=[("a.png", png((0, 0, 255))), ("b.webp", png((0, 255, 0), kind="WEBP"))],
            mask=("m.png", half_clear()),
            prompt=prompt,
            model="gpt-image-2",
            n=2,
            size="1024x1024",
        )

    assert answer.data is not None and not hasattr(answer, "status")
    assert len(answer.data) == 2
    picture = opened(str(answer.data[0].url))
    assert picture.getpixel((900, 300)) == (0, 0, 255)
    red, green, blue = picture.getpixel((40, 1000))  # type: ignore[misc]
    assert green > 240 > 20 > max(red, blue)
    assert picture.getpixel((100, 300)) != (0, 0, 255)
    assert len(stack.purchases(prompt)) == 2


@pytest.mark.parametrize("wait", [False, True])
def test_a_variation(stack: Stack, wait: bool) -> None:
    headers = {"Prefer": "wait=60"} if wait else {}
    with (
        openai.OpenAI(api_key=KEY, base_url=f"{stack.url}/v1", default_headers=headers) as client,
        pytest.warns(DeprecationWarning),  # OpenAI has it no more
    ):
        answer = client.images.create_variation(image=("a.png", png((255, 0, 0))), size="256x256")
    assert answer.data is not None
    url = answer.data[0].url if wait else finished(stack, answer)["data"][0]["url"]

    picture = opened(str(url))

    assert picture.size == (256, 256)
    red, green, blue = picture.resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 140 > max(green, blue)


def test_a_data_url_does_as_well(stack: Stack, prompt: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(png((255, 0, 0))).decode()
    answer = requests.post(
        f"{stack.url}/v1/images/edits",
        json={"prompt": prompt, "images": [url, {"image_url": url}], "response_format": "b64_json"},
        headers={"Authorization": f"Bearer {KEY}", "Prefer": "wait=60"},
        timeout=70,
    )

    assert answer.status_code == 200, answer.text
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(data)).size == (1024, 1024)


@pytest.fixture
def faults(stack: Stack) -> Iterator[None]:
    yield
    stack.clear_faults()


def test_the_next_route_edits_what_the_first_does_not(
    stack: Stack, client: openai.OpenAI, prompt: str, faults: None
) -> None:
    stack.fault(fault="no_credit", provider="openai")

    answer = client.images.edit(image=("a.png", png((255, 0, 0))), prompt=prompt)

    assert finished(stack, answer)["provider"] == "compatible"
    assert [entry["provider"] for entry in stack.purchases(prompt)] == ["compatible"]


def test_an_edit_of_a_provider_with_jobs(stack: Stack, client: openai.OpenAI, prompt: str) -> None:
    answer = client.images.edit(
        image=[("a.png", png((255, 0, 0))), ("b.png", png((0, 255, 0)))],
        prompt=prompt,
        model="flux-kontext-pro",
        n=2,
    )

    task = finished(stack, answer)
    assert (task["provider"], len(task["data"])) == ("bfl", 2)
    red, green, blue = opened(task["data"][0]["url"]).resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 130 > max(green, blue)
    assert len(stack.purchases(prompt)) == 2


def test_an_edit_that_was_cut_off_is_not_bought_again(
    stack: Stack, client: openai.OpenAI, prompt: str, faults: None
) -> None:
    stack.fault(fault="reset", provider="openai", call="submit")

    answer = client.images.edit(image=("a.png", png((255, 0, 0))), prompt=prompt)
    task = stack.finished({"id": answer.id, "poll_url": answer.poll_url})  # type: ignore[attr-defined]

    assert task["error_detail"]["code"] == "outcome_unknown"
    assert task["error_detail"]["billed"] == "unknown"
    assert len(stack.purchases(prompt)) == 1


def test_a_provider_may_refuse_a_picture(stack: Stack, client: openai.OpenAI, prompt: str) -> None:
    answer = client.images.edit(image=("a.png", png((255, 0, 0))), prompt=f"{prompt} sim:moderated")
    task = stack.finished({"id": answer.id, "poll_url": answer.poll_url})  # type: ignore[attr-defined]

    assert task["error_detail"]["code"] == "content_policy_violation"
    assert stack.purchases(prompt) == []
