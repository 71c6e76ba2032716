"""Ideogram's API: answers with signed addresses, and with none for a picture it calls unsafe."""

import secrets
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from flask import Blueprint, Response, jsonify, request, url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ops.sandbox.dialects.base import FOREIGN, Desk, json_object
from ops.sandbox.faults import Strikes
from ops.sandbox.pictures import BadSource, Sources, read_source

URL_SECONDS = 3600
PICTURES_KEPT = 10_000

# The pictures' widths and heights: each width goes with these heights, and the other way round.
HEIGHTS = {
    512: (1536,),
    576: (1408, 1472, 1536),
    640: (1344, 1408, 1472, 1536),
    704: (1152, 1216, 1280, 1344, 1408, 1472),
    736: (1312,),
    768: (1088, 1216, 1280, 1344),
    800: (1280,),
    832: (960, 1024, 1088, 1152, 1216, 1248),
    864: (1152,),
    896: (960, 1024, 1088, 1120, 1152),
    960: (1024, 1088),
    1024: (1024,),
}
TALL = [(width, height) for width, heights in HEIGHTS.items() for height in heights]
RESOLUTIONS = {f"{w}x{h}": (w, h) for pair in TALL for w, h in (pair, pair[::-1])}
RATIOS = {
    "1x1": "1024x1024", "1x2": "704x1408", "2x1": "1408x704", "1x3": "512x1536", "3x1": "1536x512",
    "2x3": "832x1248", "3x2": "1248x832", "3x4": "864x1152", "4x3": "1152x864", "4x5": "896x1120",
    "5x4": "1120x896", "9x16": "736x1312", "16x9": "1312x736", "10x16": "800x1280",
    "16x10": "1280x800",
}  # fmt: skip

SECONDS = {"FLASH": 3.0, "TURBO": 5.0, "BALANCED": 8.0, "DEFAULT": 12.0, "QUALITY": 20.0}
SECONDS_PER_FURTHER_PICTURE = 1.0

SAFETY = "Prompt provided failed safety check due to the inclusion of prohibited content."

# fault -> status, text; struck before anything is bought. Only the 422 has a published body.
REFUSALS = {
    "bad_key": (401, "Unauthorized"),
    "no_credit": (402, "Payment Required"),
    "rate_limited": (429, "Too Many Requests"),
    "overloaded": (503, "Service Unavailable"),
    "server_error": (500, "Internal Server Error"),
}


class Inputs(BaseModel):
    """The fields of a request, with the provider's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1)]
    seed: Annotated[int | None, Field(ge=0, le=2147483647)] = None
    resolution: str | None = None
    aspect_ratio: str | None = None
    rendering_speed: Literal["FLASH", "TURBO", "BALANCED", "DEFAULT", "QUALITY"] = "DEFAULT"
    magic_prompt: Literal["AUTO", "ON", "OFF"] = "AUTO"
    negative_prompt: str | None = None
    num_images: Annotated[int, Field(ge=1, le=8)] = 1
    color_palette: dict[str, Any] | None = None
    style_codes: list[Annotated[str, Field(pattern="^[0-9a-fA-F]{8}$")]] | None = None
    style_type: (
        Literal["AUTO", "GENERAL", "REALISTIC", "DESIGN", "FICTION", "CUSTOM", "STYLIZED"] | None
    ) = None
    style_preset: str | None = None
    custom_model_uri: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resolution and self.aspect_ratio:
            raise ValueError("resolution and aspect_ratio cannot be used together")
        if self.style_codes and self.style_type:
            raise ValueError("style_codes and style_type cannot be used together")
        if self.resolution is not None and self.resolution not in RESOLUTIONS:
            raise ValueError(f"resolution {self.resolution} is not supported")
        if self.aspect_ratio is not None and self.aspect_ratio not in RATIOS:
            raise ValueError(f"aspect_ratio {self.aspect_ratio} is not supported")
        return self

    @property
    def drawn(self) -> str:
        """The resolution that the pictures get."""
        return self.resolution or RATIOS[self.aspect_ratio or "1x1"]

    @property
    def final_prompt(self) -> str:
        """What is drawn in the end: the prompt, with more words unless they are not wanted."""
        rewritten = self.magic_prompt != "OFF"
        return f"{self.prompt}, in fine detail and balanced light" if rewritten else self.prompt


class RemixInputs(Inputs):
    model_config = ConfigDict(strict=False)  # a form knows nothing but text

    image_weight: Annotated[int, Field(ge=1, le=100)] = 50


class EditInputs(Inputs):
    model_config = ConfigDict(strict=False)

    resolution: None = None
    aspect_ratio: None = None
    negative_prompt: None = None


@dataclass(frozen=True)
class Sold:
    """A picture that was handed out as an address; it is drawn when somebody comes for it."""

    inputs: Inputs
    seed: int
    expires: int
    signature: str
    strikes: Strikes
    sources: Sources | None
    size: tuple[int, int]


class Shelf:
    """The pictures that were sold, the oldest forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sold: OrderedDict[str, Sold] = OrderedDict()

    def put(self, sold: Sold) -> str:
        """Keep a picture; the name to ask for it by."""
        name = uuid.uuid4().hex
        with self._lock:
            self._sold[name] = sold
            if len(self._sold) > PICTURES_KEPT:
                self._sold.popitem(last=False)
        return name

    def get(self, name: str) -> Sold | None:
        return self._sold.get(name)


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("ideogram", __name__)
    shelf = Shelf()

    @bp.post("/v1/ideogram-v3/generate")
    def generate() -> Response:
        desk.enter("submit")
        key = request.headers.get("Api-Key", "")
        if not key or "bad" in key or "invalid" in key:
            return _failure("bad_key")
        try:
            inputs = Inputs.model_validate(json_object(request.get_json(silent=True)))
        except ValidationError as problem:
            return _validation_answer(problem)
        return sell(inputs, None, RESOLUTIONS[inputs.drawn])

    @bp.post("/v1/ideogram-v3/<any(remix, edit):what>")
    def start_from_a_picture(what: str) -> Response:
        desk.enter("submit")
        key = request.headers.get("Api-Key", "")
        if not key or "bad" in key or "invalid" in key:
            return _failure("bad_key")
        kind = EditInputs if what == "edit" else RemixInputs
        try:
            inputs = kind.model_validate(request.form.to_dict())
            sources = _sources(masked=what == "edit")
        except ValidationError as problem:
            return _validation_answer(problem)
        except BadSource as problem:
            return _error(400, str(problem))
        size = sources.images[0].size if what == "edit" else RESOLUTIONS[inputs.drawn]
        return sell(inputs, sources.small(), size)

    def sell(inputs: Inputs, sources: Sources | None, size: tuple[int, int]) -> Response:
        strikes = desk.strike("submit", inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        job_id = uuid.uuid4().hex
        desk.bill(
            prompt=inputs.prompt,
            model="ideogram-v3",
            job_id=job_id,
            count=inputs.num_images,
            seed=inputs.seed,
        )
        work = SECONDS[inputs.rendering_speed]
        return desk.deliver(
            strikes,
            lambda: _answer(shelf, inputs, sources, size, strikes),
            seconds=desk.seconds(work + SECONDS_PER_FURTHER_PICTURE * (inputs.num_images - 1)),
        )

    @bp.get("/api/images/ephemeral/<name>.png")
    def download(name: str) -> Response:
        desk.enter("download")
        sold = shelf.get(name)
        if sold is None or request.args.get("sig") != sold.signature:
            return Response("Not Found", 404, mimetype="text/plain")
        strikes = desk.strike("download", sold.inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        return desk.deliver(strikes, lambda: _picture(desk, sold, sold.strikes | strikes))

    return bp


def _sources(*, masked: bool) -> Sources:
    """The pictures of a form. Raises BadSource."""
    given = {name: file.read() for name, file in request.files.items()}
    if set(given) != ({"image", "mask"} if masked else {"image"}):
        raise BadSource("image and, for an edit, mask are required, and nothing else is taken")
    image = read_source(given["image"])
    if not masked:
        return Sources((image,))
    mask = read_source(given["mask"])
    if mask.size != image.size:
        raise BadSource("image and mask must have the same dimensions")
    shades = mask.convert("L").getcolors() or []
    if {shade for _, shade in shades} != {0, 255}:
        raise BadSource("mask must be black and white, with some of each")
    return Sources((image,), mask.convert("L").point([255] + [0] * 255))


def _answer(
    shelf: Shelf,
    inputs: Inputs,
    sources: Sources | None,
    size: tuple[int, int],
    strikes: Strikes,
) -> Response:
    if "failed" in strikes:
        return _failure("server_error")
    data = []
    seed = secrets.randbelow(2**31 - 8) if inputs.seed is None else inputs.seed
    for index in range(0 if "no_image" in strikes else inputs.num_images):
        withheld = "moderated_output" in strikes or (
            "fewer_images" in strikes and index == inputs.num_images - 1
        )
        sold = Sold(
            inputs=inputs,
            seed=(seed + index) % 2**31,
            expires=int(time.time()) + (-1 if "expired_url" in strikes else URL_SECONDS),
            signature=uuid.uuid4().hex,
            strikes=strikes,
            sources=sources,
            size=size,
        )
        data.append(
            {
                "url": None if withheld else _url(shelf, sold),
                "prompt": inputs.final_prompt,
                "resolution": f"{size[0]}x{size[1]}",
                "is_image_safe": not withheld,
                "seed": sold.seed,
                "style_type": inputs.style_type or "GENERAL",
            }
        )
    return jsonify(created=datetime.now(UTC).isoformat(), data=data)


def _url(shelf: Shelf, sold: Sold) -> str:
    host = FOREIGN if "foreign_image_url" in sold.strikes else request.host_url.rstrip("/")
    return host + url_for(".download", name=shelf.put(sold), exp=sold.expires, sig=sold.signature)


def _picture(desk: Desk, sold: Sold, strikes: Strikes) -> Response:
    if "expired_url" in strikes or time.time() > sold.expires:
        return Response("Forbidden", 403, mimetype="text/plain")
    if "redirect_image" in strikes:
        return Response(status=302, headers={"Location": f"{FOREIGN}/latest/meta-data/"})
    width, height = sold.size
    picture = desk.painter.picture(
        sold.inputs.prompt,
        width=width,
        height=height,
        seed=sold.seed,
        output_format="png",
        plain=desk.faults.plain,
        flaws=strikes,
        sources=sold.sources,
    )
    return Response(picture.body, mimetype=picture.mime_type)


def _refusal(strikes: Strikes) -> Response | None:
    for name in REFUSALS:
        if name in strikes:
            response = _failure(name)
            if name == "rate_limited" and strikes[name].retry_after is not None:
                response.headers["Retry-After"] = str(strikes[name].retry_after)
            return response
    return _error(422, SAFETY) if "moderated" in strikes else None


def _failure(name: str) -> Response:
    status, text = REFUSALS[name]
    return Response(text, status, mimetype="text/plain")


def _validation_answer(problem: ValidationError) -> Response:
    first = problem.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return _error(400, f"{where}: {first['msg']}" if where else first["msg"])


def _error(status: int, text: str) -> Response:
    response = jsonify(error=text)
    response.status_code = status
    return response
