"""Hugging Face's own inference: answers with the bytes of one picture."""

import secrets
import uuid
from typing import Annotated, Any

from flask import Blueprint, Response, after_this_request, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ops.sandbox.dialects.base import Desk, json_object
from ops.sandbox.faults import Strikes

MODELS = ("black-forest-labs/FLUX.1-schnell", "stabilityai/stable-diffusion-xl-base-1.0")
SECONDS = 4.0

# The service publishes no bodies of errors; struck before anything is bought.
REFUSALS = {
    "bad_key": (401, "Invalid username or password."),
    "no_credit": (402, "You have exceeded your monthly included credits for Inference Providers."),
    "rate_limited": (429, "Rate limit reached. Please log in or use a HF access token"),
    "server_error": (500, "Internal Server Error"),
}

# Nothing is published about these limits either.
Side = Annotated[int, Field(ge=64, le=2048)]


class Parameters(BaseModel):
    """What can be said about the picture."""

    model_config = ConfigDict(extra="forbid", strict=True)

    guidance_scale: float | None = None
    negative_prompt: str | None = None
    num_inference_steps: Annotated[int | None, Field(ge=1, le=100)] = None
    width: Side = 1024
    height: Side = 1024
    scheduler: str | None = None
    seed: int | None = None


class Inputs(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: str
    parameters: Parameters = Parameters()


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("huggingface", __name__)

    @bp.before_request
    def _number_request() -> None:
        @after_this_request
        def name_request(response: Response) -> Response:
            response.headers["x-request-id"] = f"Root=1-{uuid.uuid4().hex}"
            return response

    @bp.post("/models/<path:model>")
    def generate(model: str) -> Response:
        desk.enter("submit")
        if refusal := _key_refusal():
            return refusal
        if model not in MODELS:
            return _failure(404, f"Model {model} is not supported by provider hf-inference")
        try:
            asked = Inputs.model_validate(json_object(request.get_json(silent=True)))
        except ValidationError as problem:
            return _validation_answer(problem)
        strikes = desk.strike("submit", asked.inputs)
        if refusal := _refusal(model, strikes):
            return desk.deliver(strikes, lambda: refusal)
        desk.bill(
            prompt=asked.inputs,
            model=model,
            job_id=uuid.uuid4().hex,
            seed=asked.parameters.seed,
        )
        return desk.deliver(
            strikes, lambda: _answer(desk, asked, strikes), seconds=desk.seconds(SECONDS)
        )

    return bp


def _answer(desk: Desk, asked: Inputs, strikes: Strikes) -> Response:
    if "failed" in strikes:
        return _failure(*REFUSALS["server_error"])
    if "no_image" in strikes:
        return _failure(200, "The model produced no image")
    seed = asked.parameters.seed
    picture = desk.painter.picture(
        asked.inputs,
        width=asked.parameters.width,
        height=asked.parameters.height,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        output_format="png" if "image/png" in request.headers.get("Accept", "") else "jpeg",
        plain=desk.faults.plain,
        flaws=strikes,
    )
    return Response(picture.body, mimetype=picture.mime_type)


def _key_refusal() -> Response | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    usable = scheme.lower() == "bearer" and key and "bad" not in key and "invalid" not in key
    return None if usable else _failure(*REFUSALS["bad_key"])


def _refusal(model: str, strikes: Strikes) -> Response | None:
    if loading := strikes.get("overloaded"):
        wait = loading.retry_after
        known = {"estimated_time": float(wait)} if isinstance(wait, int | float) else {}
        return _failure(503, f"Model {model} is currently loading", **known)
    for name, refusal in REFUSALS.items():
        if name in strikes:
            response = _failure(*refusal)
            if name == "rate_limited" and strikes[name].retry_after is not None:
                response.headers["Retry-After"] = str(strikes[name].retry_after)
            return response
    return None


def _validation_answer(problem: ValidationError) -> Response:
    return _failure(
        400,
        [
            f"Error in `{'.'.join(str(part) for part in error['loc'])}`: {error['msg']}"
            for error in problem.errors(include_url=False, include_context=False)
        ],
    )


def _failure(status: int, error: str | list[str], **further: Any) -> Response:
    response = jsonify(error=error, **further)
    response.status_code = status
    return response
