"""Google's Gemini API, generateContent of image models: a picture in base64 among words."""

import base64
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ops.sandbox.dialects.base import Desk, json_object
from ops.sandbox.faults import Fault, Strikes
from ops.sandbox.pictures import BadSource, Sources, read_source_in_base64

# ratio -> the picture at 1K; it is twice and four times as large at 2K and 4K.
RATIOS = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}
EXTREME_RATIOS = {
    "1:4": (512, 2048),
    "4:1": (2048, 512),
    "1:8": (384, 3072),
    "8:1": (3072, 384),
}

# size -> how long the sides are compared with 1K, output tokens, seconds
STEPS = {
    "512": (0.5, 747, 6.0),
    "1K": (1.0, 1120, 8.0),
    "2K": (2.0, 1680, 12.0),
    "4K": (4.0, 2520, 20.0),
}


@dataclass(frozen=True)
class Model:
    """What a model can be asked for, and how it answers."""

    steps: tuple[str, ...]  # none: it knows no such field, and makes 1K
    ratios: dict[str, tuple[int, int]]
    output_format: str
    tokens: int = 0  # of its only size
    thinks: bool = False  # its drafts come along


MODELS = {
    "gemini-3.1-flash-image": Model(("512", "1K", "2K", "4K"), RATIOS | EXTREME_RATIOS, "jpeg"),
    "gemini-3-pro-image": Model(("1K", "2K", "4K"), RATIOS, "jpeg", thinks=True),
    "gemini-2.5-flash-image": Model((), RATIOS, "png", tokens=1290),
}

# fault -> status, what Google calls it, message; struck before anything is bought
REFUSALS = {
    "bad_key": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "no_credit": (402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
    "rate_limited": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "server_error": (500, "INTERNAL", "An internal error has occurred."),
}
TYPE = "type.googleapis.com/google.rpc."


class Fields(BaseModel):
    """Names are written as Google writes them in JSON; one it does not know is an error."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class Blob(Fields):
    mime_type: Literal["image/png", "image/jpeg", "image/webp"]
    data: str


class Part(Fields):
    text: str = ""
    inline_data: Blob | None = None


class Content(Fields):
    role: Literal["user", "model"] = "user"
    parts: Annotated[list[Part], Field(min_length=1)]


class ImageConfig(Fields):
    aspect_ratio: str = "1:1"
    image_size: str | None = None


class GenerationConfig(Fields):
    response_modalities: list[Literal["TEXT", "IMAGE"]] = ["TEXT", "IMAGE"]
    image_config: ImageConfig = ImageConfig()
    candidate_count: Literal[1] = 1
    seed: int | None = None
    temperature: float | None = None


class Inputs(Fields):
    """The fields of a request that say something about a picture."""

    contents: Annotated[list[Content], Field(min_length=1)]
    generation_config: GenerationConfig = GenerationConfig()
    safety_settings: list[dict[str, str]] | None = None

    @property
    def prompt(self) -> str:
        return "\n".join(part.text for part in self.contents[-1].parts if part.text)

    @property
    def sources(self) -> Sources | None:
        """The pictures among its parts. Raises BadSource."""
        blobs = [part.inline_data for part in self.contents[-1].parts if part.inline_data]
        if not blobs:
            return None
        return Sources(tuple(read_source_in_base64(blob.data) for blob in blobs))


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix plus `/v1beta`."""
    bp = Blueprint("gemini", __name__)

    @bp.post("/v1beta/models/<model>:generateContent")
    def generate_content(model: str) -> Response:
        desk.enter("submit")
        if refusal := _key_refusal():
            return refusal
        if model not in MODELS:
            return _no_such_model(model)
        try:
            inputs = Inputs.model_validate(json_object(request.get_json(silent=True)))
            sources = inputs.sources
        except ValidationError as problem:
            return _validation_answer(problem)
        except BadSource:
            return _error(400, "INVALID_ARGUMENT", "Unable to process input image.")
        image = inputs.generation_config.image_config
        if wrong := _wrong_image(model, image):
            return _error(400, "INVALID_ARGUMENT", wrong)
        strikes = desk.strike("submit", inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        answer_id = secrets.token_urlsafe(16)
        if "moderated" in strikes:
            blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
            return desk.deliver(strikes, lambda: _answer(model, answer_id, inputs, 0, blocked))
        seed = inputs.generation_config.seed
        desk.bill(prompt=inputs.prompt, model=model, job_id=answer_id, seed=seed)
        _, tokens, seconds = STEPS[image.image_size or "1K"]
        tokens = MODELS[model].tokens or tokens
        return desk.deliver(
            strikes,
            lambda: _answer(
                model,
                answer_id,
                inputs,
                tokens,
                {"candidates": [_made(desk, model, inputs, sources, strikes)]},
            ),
            seconds=desk.seconds(seconds),
        )

    @bp.get("/v1beta/models")
    def list_models() -> Response:
        return _key_refusal() or jsonify(models=[_model_json(name) for name in MODELS])

    @bp.get("/v1beta/models/<model>")
    def show_model(model: str) -> Response:
        if refusal := _key_refusal():
            return refusal
        return jsonify(_model_json(model)) if model in MODELS else _no_such_model(model)

    return bp


def _made(
    desk: Desk, model: str, inputs: Inputs, sources: Sources | None, strikes: Strikes
) -> dict[str, Any]:
    """The candidate: what the model made of it."""
    if "moderated_output" in strikes:
        return {"index": 0, "finishReason": "IMAGE_SAFETY"}
    if "failed" in strikes:
        return {"index": 0, "finishReason": "NO_IMAGE"}
    parts: list[dict[str, Any]] = []
    if "text_only" in strikes:
        parts = [{"text": "What a lovely idea! Shall I draw it?"}]
    elif "no_image" not in strikes:
        seed = inputs.generation_config.seed
        seed = secrets.randbelow(2**31) if seed is None else seed
        if MODELS[model].thinks:
            draft = _drawn(desk, model, inputs, sources, seed + 1, {})
            parts += [{"text": "A first draft.", "thought": True}, draft | {"thought": True}]
        if "TEXT" in inputs.generation_config.response_modalities:
            parts.append({"text": "Here is your picture."})
        parts.append(_drawn(desk, model, inputs, sources, seed, strikes))
    return {"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": parts}}


def _drawn(
    desk: Desk,
    model: str,
    inputs: Inputs,
    sources: Sources | None,
    seed: int,
    flaws: dict[str, Fault],
) -> dict[str, Any]:
    image = inputs.generation_config.image_config
    width, height = MODELS[model].ratios[image.aspect_ratio]
    scale = STEPS[image.image_size or "1K"][0]
    picture = desk.painter.picture(
        inputs.prompt,
        width=round(width * scale),
        height=round(height * scale),
        seed=seed,
        output_format=MODELS[model].output_format,
        plain=desk.faults.plain,
        flaws=flaws,
        sources=sources,
    )
    data = base64.b64encode(picture.body).decode()
    return {"inlineData": {"mimeType": picture.mime_type, "data": data}}


def _answer(
    model: str, answer_id: str, inputs: Inputs, tokens: int, result: dict[str, Any]
) -> Response:
    asked = 2 + len(inputs.prompt) // 4
    usage = {"promptTokenCount": asked, "totalTokenCount": asked + tokens}
    if tokens:
        usage["candidatesTokenCount"] = tokens
    about = {"usageMetadata": usage, "modelVersion": model, "responseId": answer_id}
    return jsonify(result | about)


def _wrong_image(model: str, image: ImageConfig) -> str:
    """What the model cannot do of what is asked, or nothing."""
    if image.aspect_ratio not in MODELS[model].ratios:
        return f"aspect_ratio must be one of {', '.join(MODELS[model].ratios)}."
    if image.image_size is not None and image.image_size not in MODELS[model].steps:
        return f"image_size {image.image_size} is not supported by {model}."
    return ""


def _refusal(strikes: Strikes) -> Response | None:
    for name, refusal in REFUSALS.items():
        if name == "bad_key" and name in strikes:
            return _bad_key()
        if name == "rate_limited" and name in strikes:
            return _rate_limited(strikes[name])
        if name in strikes:
            return _error(*refusal)
    return None


def _rate_limited(fault: Fault) -> Response:
    """The wait is named in the body; Google sends no Retry-After."""
    if fault.retry_after is None or isinstance(fault.retry_after, str):
        return _error(*REFUSALS["rate_limited"])
    delay = {"@type": f"{TYPE}RetryInfo", "retryDelay": f"{fault.retry_after}s"}
    return _error(*REFUSALS["rate_limited"], details=[delay])


def _key_refusal() -> Response | None:
    key = request.headers.get("X-Goog-Api-Key", "")
    if not key:
        text = "Method doesn't allow unregistered callers. Please use an API key."
        return _error(403, "PERMISSION_DENIED", text)
    return _bad_key() if "bad" in key or "invalid" in key else None


def _bad_key() -> Response:
    reason = {"@type": f"{TYPE}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
    return _error(*REFUSALS["bad_key"], details=[reason])


def _no_such_model(model: str) -> Response:
    text = f"models/{model} is not found, or is not supported for generateContent."
    return _error(404, "NOT_FOUND", text)


def _model_json(model: str) -> dict[str, Any]:
    return {"name": f"models/{model}", "supportedGenerationMethods": ["generateContent"]}


def _validation_answer(problem: ValidationError) -> Response:
    first = problem.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return _error(400, "INVALID_ARGUMENT", f"Invalid value at '{where}': {first['msg']}")


def _error(
    status: int, name: str, message: str, *, details: list[dict[str, Any]] | None = None
) -> Response:
    error: dict[str, Any] = {"code": status, "message": message, "status": name}
    response = jsonify(error=error | ({"details": details} if details else {}))
    response.status_code = status
    return response
