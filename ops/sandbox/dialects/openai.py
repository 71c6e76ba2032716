"""OpenAI's Images API: answers with the pictures themselves, seconds after billing them.

A server that is compatible with it speaks the same dialect, and knows a few words more.
"""

import base64
import math
import re
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any, Literal

from flask import Blueprint, Response, after_this_request, jsonify, request
from PIL import Image

from ops.sandbox.dialects.base import Desk, json_object
from ops.sandbox.faults import Strikes
from ops.sandbox.pictures import BadSource, Sources, clear_in, read_source

# model -> its generation, and the Unix time it was made known.
MODELS = {
    "gpt-image-2.6-sunburst": (2.6, 1793836800),
    "gpt-image-2.6-flare": (2.6, 1793836800),
    "gpt-image-2.5-sunburst": (2.5, 1788825600),
    "gpt-image-2.5-sunburst-2026-09-08": (2.5, 1788825600),
    "gpt-image-2.5-flare": (2.5, 1788825600),
    "gpt-image-2.5-flare-2026-09-08": (2.5, 1788825600),
    "gpt-image-2": (2.0, 1776729600),
    "gpt-image-2-2026-04-21": (2.0, 1776729600),
    "gpt-image-1.5": (1.5, 1765843200),
    "gpt-image-1-mini": (1.0, 1759708800),
    "chatgpt-image-latest": (1.5, 1765843200),
}
RETIRED = {"dall-e-2": (0.0, 1698798177), "dall-e-3": (0.0, 1698785189)}
DEFAULT_MODEL = "dall-e-2"  # the documented default, long retired

PROMPT_LIMIT = 32_000
QUALITIES = ("auto", "low", "medium", "high")
QUALITIES_FROM_2_5 = (*QUALITIES, "xhigh", "max")
QUALITIES_OF_RETIRED = ("standard", "hd")
FIXED_SIZES = ("1024x1024", "1536x1024", "1024x1536", "auto")
RETIRED_SIZES = {
    "dall-e-2": ("256x256", "512x512", "1024x1024"),
    "dall-e-3": ("1024x1024", "1792x1024", "1024x1792"),
}
CHOICES = {
    "output_format": ("png", "jpeg", "webp"),
    "background": ("auto", "transparent", "opaque"),
    "moderation": ("auto", "low"),
}
TEXTS = ("user", "safety_identifier")
KNOWN = frozenset(
    {"prompt", "model", "n", "size", "quality", "output_compression", "stream", "partial_images"}
    | {*CHOICES, *TEXTS}
)


# What is done, by the last part of its path, and the fields that are known then.
Task = Literal["generations", "edits", "variations"]
KNOWN_BY_TASK: dict[Task, frozenset[str]] = {
    "generations": KNOWN,
    "edits": KNOWN - {"moderation"} | {"input_fidelity"},
    "variations": frozenset({"model", "n", "size", "user"}),
}
MOST_IMAGES = 16
MASK_BYTES = 4_000_000
IMAGE_TOKENS = 323  # of an input of 1024x1024


@dataclass(frozen=True)
class Service:
    """Who speaks the dialect: the models it serves, and the fields it knows."""

    models: dict[str, tuple[float, int]]
    further: frozenset[str] = frozenset()


OPENAI = Service(MODELS)
COMPATIBLE = Service(
    MODELS | RETIRED, frozenset({"response_format", "style", "seed", "negative_prompt"})
)

# quality -> output tokens of a 1024x1024 picture, and how its time compares with medium.
EFFORT = {
    "low": (272, 0.6),
    "medium": (1056, 1.0),
    "standard": (1056, 1.0),
    "high": (4160, 1.6),
    "hd": (4160, 1.6),
    "xhigh": (6240, 2.0),
    "max": (8320, 2.5),
}
SECONDS = 6.0
SECONDS_PER_FURTHER_PICTURE = 1.5

INVALID = "invalid_request_error"
# fault -> status, type, code, message; struck before anything is bought
REFUSALS = {
    "bad_key": (401, INVALID, "invalid_api_key", "Incorrect API key provided."),
    "no_credit": (
        429, "insufficient_quota", "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "rate_limited": (429, "requests", "rate_limit_exceeded", "Rate limit reached for images."),
    "overloaded": (
        503, "service_unavailable_error", "server_is_overloaded",
        "The server is currently overloaded, please try again later.",
    ),
    "server_error": (
        500, "server_error", None, "The server had an error while processing your request.",
    ),
}  # fmt: skip


class Refused(Exception):
    """The call gets an error in OpenAI's shape."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = INVALID,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": code}

    def response(self) -> Response:
        response = jsonify(error=self.error)
        response.status_code = self.status
        return response


@dataclass(frozen=True)
class Generation:
    """One checked request, with the provider's defaults filled in."""

    prompt: str
    model: str
    n: int
    width: int
    height: int
    quality: str
    output_format: str
    compression: int
    transparent: bool
    sources: Sources | None = None

    @classmethod
    def from_json(
        cls, body: dict[str, Any], service: Service, task: Task = "generations"
    ) -> "Generation":
        """Raises Refused, naming the first field that is wrong."""
        fields = {name: value for name, value in body.items() if value is not None}
        model = _checked_model(fields, service)
        generation, _ = service.models[model]
        for name in fields:
            if name not in KNOWN_BY_TASK[task] | service.further:
                raise Refused(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        width, height = _checked_size(fields, model, generation)
        for name in TEXTS:
            _checked_text(fields, name)
        output_format = _checked_choice(fields, "output_format", CHOICES["output_format"], "png")
        compression = _checked_integer(fields, "output_compression", 0, 100, default=100)
        if "output_compression" in fields and output_format == "png" and compression != 100:
            raise Refused(
                "Compression less than 100 is not supported for PNG output format.",
                param="output_compression",
                code="invalid_value",
            )
        background = _checked_choice(fields, "background", CHOICES["background"], "auto")
        if background == "transparent" and output_format == "jpeg":
            raise Refused(
                "Transparent background is not supported for JPEG output format.",
                param="background",
                code="invalid_value",
            )
        qualities: tuple[str, ...] = QUALITIES_FROM_2_5 if generation >= 2.5 else QUALITIES
        if model in RETIRED:
            qualities = QUALITIES_OF_RETIRED
        quality = _checked_choice(fields, "quality", qualities, "auto")
        _checked_choice(fields, "response_format", ("b64_json",), "b64_json")
        _checked_choice(fields, "moderation", CHOICES["moderation"], "auto")
        _checked_choice(fields, "input_fidelity", ("high", "low"), "low")
        _refuse_streaming(fields)
        return cls(
            prompt="" if task == "variations" else _checked_prompt(fields),
            model=model,
            n=_checked_integer(fields, "n", 1, 10, default=1),
            width=width,
            height=height,
            quality="medium" if quality == "auto" else quality,
            output_format=output_format,
            compression=compression,
            transparent=background == "transparent",
        )

    @property
    def seconds(self) -> float:
        """How long the work typically takes."""
        slowness = EFFORT[self.quality][1] * math.sqrt(self.width * self.height) / 1024
        return slowness * (SECONDS + SECONDS_PER_FURTHER_PICTURE * (self.n - 1))

    @property
    def usage(self) -> dict[str, Any]:
        area = self.width * self.height / 1024**2
        text = 8 + len(self.prompt) // 4
        image = 0
        if self.sources is not None:
            image = math.ceil(IMAGE_TOKENS * self.sources.pixels / 1024**2)
        output = round(EFFORT[self.quality][0] * area) * self.n
        return {
            "total_tokens": text + image + output,
            "input_tokens": text + image,
            "output_tokens": output,
            "input_tokens_details": {"text_tokens": text, "image_tokens": image},
            "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        }


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix plus `/v1`."""
    bp = Blueprint(desk.provider, __name__)
    service = COMPATIBLE if desk.provider == "compatible" else OPENAI

    @bp.before_request
    def _number_request() -> None:
        request.environ["sandbox.request_id"] = f"req_{uuid.uuid4().hex}"

        @after_this_request
        def name_request(response: Response) -> Response:
            response.headers["x-request-id"] = _request_id()
            response.headers["x-ratelimit-limit-requests"] = "500"
            response.headers.setdefault("x-ratelimit-remaining-requests", "499")
            response.headers.setdefault("x-ratelimit-reset-requests", "120ms")
            return response

    @bp.errorhandler(Refused)
    def _refuse(problem: Refused) -> Response:
        return problem.response()

    @bp.post("/v1/images/generations")
    def generate() -> Response:
        desk.enter("submit")
        _check_key()
        body = json_object(request.get_json(silent=True))
        if body is None:
            raise Refused("We could not parse the JSON body of your request: expected an object.")
        return sell(Generation.from_json(body, service))

    @bp.post("/v1/images/edits")
    def edit() -> Response:
        return sell_from_form("edits")

    @bp.post("/v1/images/variations")
    def vary() -> Response:
        return sell_from_form("variations")

    def sell_from_form(task: Task) -> Response:
        desk.enter("submit")
        _check_key()
        if request.mimetype != "multipart/form-data":
            raise Refused("This sandbox takes a form here, with the images as files.")
        generation = Generation.from_json(_form_fields(), service, task)
        if task == "variations" and generation.model not in RETIRED:
            raise Refused(f"Invalid value: '{generation.model}'.", param="model")
        return sell(replace(generation, sources=_sources(generation.model)))

    def sell(generation: Generation) -> Response:
        strikes = desk.strike("submit", generation.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal, seconds=0.0)
        desk.bill(
            prompt=generation.prompt,
            model=generation.model,
            job_id=_request_id(),
            count=generation.n,
        )
        return desk.deliver(
            strikes,
            lambda: _answer(desk, generation, strikes),
            seconds=desk.seconds(generation.seconds),
        )

    @bp.get("/v1/models")
    def list_models() -> dict[str, Any]:
        _check_key()
        return {"object": "list", "data": [_model_json(name, service) for name in service.models]}

    @bp.get("/v1/models/<model>")
    def show_model(model: str) -> dict[str, Any]:
        _check_key()
        if model not in service.models:
            raise _no_such_model(model)
        return _model_json(model, service)

    @bp.route("/", defaults={"rest": ""}, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    @bp.route("/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def nothing_here(rest: str) -> Response:
        raise Refused(f"Invalid URL ({request.method} /{rest})", status=404)

    return bp


def _answer(desk: Desk, generation: Generation, strikes: Strikes) -> Response:
    if "moderated_output" in strikes:
        return _moderated()
    if "failed" in strikes:
        return _failure("server_error")
    count = 0 if "no_image" in strikes else generation.n - ("fewer_images" in strikes)
    pictures = [
        desk.painter.picture(
            generation.prompt,
            width=generation.width,
            height=generation.height,
            seed=index,
            output_format=generation.output_format,
            quality=generation.compression,
            transparent=generation.transparent,
            plain=desk.faults.plain,
            flaws=strikes,
            sources=generation.sources,
        ).body
        for index in range(count)
    ]
    return jsonify(
        created=int(time.time()),
        data=[{"b64_json": base64.b64encode(picture).decode()} for picture in pictures],
        background="transparent" if generation.transparent else "opaque",
        output_format=generation.output_format,
        quality=generation.quality,
        size=f"{generation.width}x{generation.height}",
        usage=generation.usage,
    )


def _form_fields() -> dict[str, Any]:
    fields: dict[str, Any] = dict(request.form.items())
    for name in ("n", "output_compression", "seed"):
        if str(fields.get(name, "")).isdecimal():
            fields[name] = int(fields[name])
    return fields


def _sources(model: str) -> Sources:
    """The pictures of a form. Raises Refused for those that the provider does not take."""
    files = [*request.files.getlist("image"), *request.files.getlist("image[]")]
    if not files:
        raise Refused(
            "Missing required parameter: 'image'.",
            param="image",
            code="missing_required_parameter",
        )
    if len(files) > (1 if model in RETIRED else MOST_IMAGES):
        raise Refused("Too many images.", param="image", code="array_above_max_length")
    images = tuple(_source(file.read(), "image") for file in files)
    if model in RETIRED and (images[0].format != "PNG" or images[0].width != images[0].height):
        raise Refused("Uploaded image must be a PNG and square.", param="image")
    if (file := request.files.get("mask")) is None:
        return Sources(images)
    data = file.read()
    mask = _source(data, "mask")
    if mask.format != "PNG" or len(data) >= MASK_BYTES:
        raise Refused("The mask must be a PNG of less than 4 MB.", param="mask")
    if mask.size != images[0].size:
        raise Refused("Invalid input: the mask size does not match the image.", param="mask")
    clear = clear_in(mask)
    if clear is None:
        raise Refused("Invalid mask: it has no alpha channel.", param="mask")
    return Sources(images, clear)


def _source(data: bytes, param: str) -> Image.Image:
    try:
        return read_source(data)
    except BadSource as error:
        raise Refused(
            "Invalid image file or mode, please check your image file.",
            param=param,
            code="invalid_image_file",
        ) from error


def _refusal(strikes: Strikes) -> Response | None:
    for name in REFUSALS:
        if name not in strikes:
            continue
        response = _failure(name)
        if name == "rate_limited" and strikes[name].retry_after is not None:
            response.headers["Retry-After"] = str(strikes[name].retry_after)
            response.headers["x-ratelimit-remaining-requests"] = "0"
            response.headers["x-ratelimit-reset-requests"] = "1s"
        return response
    return _moderated() if "moderated" in strikes else None


def _failure(name: str) -> Response:
    status, kind, code, message = REFUSALS[name]
    return Refused(message, status=status, kind=kind, code=code).response()


def _moderated() -> Response:
    return Refused(
        "Your request was rejected by the safety system. If you believe this is an error, contact "
        f"us and include the request ID {_request_id()}. safety_violations=[sexual].",
        code="moderation_blocked",
        kind="image_generation_user_error",
    ).response()


def _check_key() -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Refused(
            "You didn't provide an API key. Send it in an Authorization header using Bearer auth.",
            status=401,
        )
    if "bad" in key or "invalid" in key:
        raise Refused("Incorrect API key provided.", status=401, code="invalid_api_key")


def _request_id() -> str:
    return str(request.environ["sandbox.request_id"])


def _model_json(model: str, service: Service) -> dict[str, Any]:
    created = service.models[model][1]
    return {"id": model, "object": "model", "created": created, "owned_by": "system"}


def _no_such_model(model: str) -> Refused:
    return Refused(
        f"The model '{model}' does not exist or you do not have access to it.",
        status=404,
        code="model_not_found",
    )


def _checked_model(fields: dict[str, Any], service: Service) -> str:
    model = _checked_text(fields, "model") or DEFAULT_MODEL
    if model not in service.models:
        raise _no_such_model(model)
    return model


def _checked_prompt(fields: dict[str, Any]) -> str:
    prompt = _checked_text(fields, "prompt")
    if prompt is None:
        raise Refused(
            "Missing required parameter: 'prompt'.",
            param="prompt",
            code="missing_required_parameter",
        )
    if not prompt.strip():
        raise Refused(
            "Invalid 'prompt': the string is empty.", param="prompt", code="invalid_value"
        )
    if len(prompt) > PROMPT_LIMIT:
        raise Refused(
            f"Invalid 'prompt': string too long. Expected a string with maximum length "
            f"{PROMPT_LIMIT}, but got a string with length {len(prompt)} instead.",
            param="prompt",
            code="string_above_max_length",
        )
    return prompt


def _checked_size(fields: dict[str, Any], model: str, generation: float) -> tuple[int, int]:
    size = _checked_text(fields, "size") or "auto"
    if size == "auto":
        return 1024, 1024
    fixed = RETIRED_SIZES.get(model, FIXED_SIZES) if generation < 2 else ()
    if fixed and size not in fixed:
        raise _wrong_size(size, f"Supported values are: {', '.join(fixed)}.")
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
        raise _wrong_size(size, "Expected 'auto' or WIDTHxHEIGHT.")
    width, height = (int(side) for side in size.split("x"))
    if fixed:
        return width, height
    if width % 16 or height % 16:
        raise _wrong_size(size, "Width and height must both be divisible by 16.")
    if max(width, height) > 3 * min(width, height):
        raise _wrong_size(size, "The aspect ratio must be between 1:3 and 3:1.")
    if max(width, height) > 3840:
        raise _wrong_size(size, "The longer side must have at most 3840 pixels.")
    if not 655_360 <= width * height <= 8_294_400:
        raise _wrong_size(size, "The picture must have 655360 to 8294400 pixels.")
    return width, height


def _wrong_size(size: str, hint: str) -> Refused:
    return Refused(f"Invalid size '{size}'. {hint}", param="size", code="invalid_value")


def _checked_text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong_type(name, "a string", value)
    return value


def _checked_choice(
    fields: dict[str, Any], name: str, choices: tuple[str, ...], default: str
) -> str:
    value = _checked_text(fields, name)
    if value is None:
        return default
    if value not in choices:
        supported = ", ".join(f"'{choice}'" for choice in choices)
        raise Refused(
            f"Invalid value: '{value}'. Supported values are: {supported}.",
            param=name,
            code="invalid_value",
        )
    return value


def _checked_integer(
    fields: dict[str, Any], name: str, low: int, high: int, *, default: int
) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(name, "an integer", value)
    if not low <= value <= high:
        below = value < low
        raise Refused(
            f"Invalid '{name}': integer {'below minimum' if below else 'above maximum'} value. "
            f"Expected a value {f'>= {low}' if below else f'<= {high}'}, but got {value} instead.",
            param=name,
            code=f"integer_{'below_min' if below else 'above_max'}_value",
        )
    return value


def _refuse_streaming(fields: dict[str, Any]) -> None:
    stream = fields.get("stream", False)
    if not isinstance(stream, bool):
        raise _wrong_type("stream", "a boolean", stream)
    if stream:
        raise Refused("This sandbox does not stream.", param="stream", code="unsupported_value")
    _checked_integer(fields, "partial_images", 0, 3, default=0)


def _wrong_type(name: str, wanted: str, value: object) -> Refused:
    return Refused(
        f"Invalid type for '{name}': expected {wanted}, but got {type(value).__name__} instead.",
        param=name,
        code="invalid_type",
    )
