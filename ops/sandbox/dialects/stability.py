"""Stability AI's v2beta API: takes forms only, and blurs a picture that is not to be shown."""

import base64
import secrets
import uuid
from typing import Annotated, Literal

from flask import Blueprint, Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ops.sandbox.dialects.base import Desk
from ops.sandbox.faults import Strikes
from ops.sandbox.pictures import BadSource, Sources, read_source

# aspect_ratio -> width and height, about a megapixel
SIZES = {
    "21:9": (1536, 640),
    "16:9": (1344, 768),
    "3:2": (1216, 832),
    "5:4": (1088, 896),
    "1:1": (1024, 1024),
    "4:5": (896, 1088),
    "2:3": (832, 1216),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}
SECONDS = {
    "sd3.5-large": 8.0,
    "sd3.5-large-turbo": 4.0,
    "sd3.5-medium": 5.0,
    "sd3.5-flash": 3.0,
    "core": 4.0,
    "ultra": 10.0,
}
LARGEST_SEED = 4_294_967_294
CREDITS = 1000.0

# fault -> status, name, text; struck before anything is bought
REFUSALS = {
    "bad_key": (401, "unauthorized", "authorization: invalid or missing authorization header"),
    "no_credit": (402, "payment_required", "You lack sufficient credits to make this request."),
    "rate_limited": (
        429, "rate_limit_exceeded",
        "You have made more than 150 requests in 10 seconds and are timed out for 60 seconds.",
    ),
    "overloaded": (503, "service_unavailable", "The service is temporarily unavailable."),
    "server_error": (500, "internal_error", "An unexpected server error has occurred."),
    "moderated": (
        403, "content_moderation",
        "Your request was flagged by our content moderation system, as a result your request was "
        "denied and you were not charged.",
    ),
}  # fmt: skip

Ratio = Literal["21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21"]
Style = Literal[
    "enhance", "anime", "photographic", "digital-art", "comic-book", "fantasy-art", "line-art",
    "analog-film", "neon-punk", "isometric", "low-poly", "origami", "modeling-compound",
    "cinematic", "3d-model", "pixel-art", "tile-texture",
]  # fmt: skip
Sd3Model = Literal[
    "sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium", "sd3.5-flash",
    "sd3-large", "sd3-large-turbo", "sd3-medium",
]  # fmt: skip


class Inputs(BaseModel):
    """The fields of `core` and `ultra`; every one comes as text."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    aspect_ratio: Ratio = "1:1"
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    output_format: Literal["png", "jpeg", "webp"] = "png"
    style_preset: Style | None = None
    negative_prompt: Annotated[str | None, Field(max_length=10_000)] = None


class Sd3Inputs(Inputs):
    mode: Literal["text-to-image", "image-to-image"] = "text-to-image"
    strength: Annotated[float | None, Field(ge=0, le=1)] = None
    model: Sd3Model = "sd3.5-large"
    cfg_scale: Annotated[float | None, Field(ge=1, le=10)] = None


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("stability", __name__)

    @bp.post("/v2beta/stable-image/generate/<endpoint>")
    def generate(endpoint: str) -> Response:
        if endpoint not in ("sd3", "core", "ultra"):
            return _failure(404, "not_found", "The requested resource could not be found.")
        desk.enter("submit")
        if refusal := _key_refusal() or _form_refusal():
            return refusal
        kind = Sd3Inputs if endpoint == "sd3" else Inputs
        try:
            inputs = kind.model_validate(request.form.to_dict())
            sources = _sources(inputs)
        except ValidationError as problem:
            return _validation_answer(problem)
        except BadSource as problem:
            return _failure(400, "bad_request", f"image: {problem}")
        strikes = desk.strike("submit", inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        # The older names are served by the models that followed them.
        asked = inputs.model if isinstance(inputs, Sd3Inputs) else endpoint
        model = asked.replace("sd3-", "sd3.5-")
        if "failed" not in strikes:  # such work is free
            desk.bill(
                prompt=inputs.prompt,
                model=model,
                job_id=uuid.uuid4().hex,
                seed=inputs.seed or None,
            )
        return desk.deliver(
            strikes,
            lambda: _answer(desk, inputs, sources, strikes),
            seconds=desk.seconds(SECONDS[model]),
        )

    @bp.get("/v1/user/balance")
    def show_balance() -> Response:
        return _key_refusal() or jsonify(credits=CREDITS)

    return bp


def _sources(inputs: Inputs) -> Sources | None:
    """The picture of a form. Raises BadSource when there is none and there should be, or the other
    way round."""
    file = request.files.get("image")
    if not isinstance(inputs, Sd3Inputs) or inputs.mode == "text-to-image":
        if file is not None:
            raise BadSource("not taken in this mode")
        return None
    if file is None or inputs.strength is None:
        raise BadSource("image and strength are required in this mode")
    if "aspect_ratio" in inputs.model_fields_set:
        raise BadSource("aspect_ratio is not taken in this mode")
    return Sources((read_source(file.read()),))


def _answer(desk: Desk, inputs: Inputs, sources: Sources | None, strikes: Strikes) -> Response:
    if "failed" in strikes:
        return _failure(*REFUSALS["server_error"])
    width, height = SIZES[inputs.aspect_ratio] if sources is None else sources.images[0].size
    seed = inputs.seed or 1 + secrets.randbelow(LARGEST_SEED)
    filtered = "moderated_output" in strikes
    picture = desk.painter.picture(
        inputs.prompt,
        width=width,
        height=height,
        seed=seed,
        output_format=inputs.output_format,
        plain=desk.faults.plain or filtered,  # one flat colour is as blurred as can be
        flaws=strikes,
        sources=sources,
    )
    body = b"" if "no_image" in strikes else picture.body
    request_id = uuid.uuid4().hex
    reason = "CONTENT_FILTERED" if filtered else "SUCCESS"
    if request.headers.get("Accept") == "application/json":
        told = {"image": base64.b64encode(body).decode(), "finish_reason": reason, "seed": seed}
        response = jsonify(told)
        response.headers["Content-Type"] = f"application/json; type={picture.mime_type}"
        response.headers["x-request-id"] = request_id
        return response
    headers = {"finish-reason": reason, "seed": str(seed), "x-request-id": request_id}
    return Response(body, mimetype=picture.mime_type, headers=headers)


def _key_refusal() -> Response | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    usable = scheme.lower() == "bearer" and key and "bad" not in key and "invalid" not in key
    return None if usable else _failure(*REFUSALS["bad_key"])


def _form_refusal() -> Response | None:
    if request.mimetype != "multipart/form-data":
        return _failure(400, "bad_request", "content-type: must be multipart/form-data")
    if request.headers.get("Accept", "*/*") not in ("image/*", "application/json", "*/*"):
        return _failure(400, "bad_request", "accept: must be image/* or application/json")
    return None


def _refusal(strikes: Strikes) -> Response | None:
    for name, refusal in REFUSALS.items():
        if name in strikes:
            response = _failure(*refusal)
            # No wait is promised: one is told only when somebody asked for it.
            wait = strikes[name].retry_after
            if wait is not None and "retry_after" in strikes[name].model_fields_set:
                response.headers["Retry-After"] = str(wait)
            return response
    return None


def _validation_answer(problem: ValidationError) -> Response:
    texts = [
        f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
        for error in problem.errors(include_url=False, include_context=False)
    ]
    return _failure(400, "bad_request", *texts)


def _failure(status: int, name: str, *texts: str) -> Response:
    response = jsonify(id=uuid.uuid4().hex, name=name, errors=texts)
    response.status_code = status
    return response
