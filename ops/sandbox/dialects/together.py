"""Together AI's image API: like OpenAI's of old, with sides in pixels and base64 called base64."""

import base64
import secrets
import threading
from collections import OrderedDict
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify, request, url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ops.sandbox.dialects.base import Desk, json_object
from ops.sandbox.faults import Strikes
from ops.sandbox.pictures import Picture

MODELS = ("black-forest-labs/FLUX.1-schnell", "black-forest-labs/FLUX.1.1-pro")
SECONDS = 1.5
SECONDS_PER_FURTHER_PICTURE = 0.5
PICTURES_KEPT = 1_000

# The service publishes the shape of its errors and none of their codes; struck before a purchase.
REFUSALS = {
    "bad_key": (401, "invalid_request_error", "invalid_api_key", "Invalid API key provided"),
    "no_credit": (402, "credit_limit", None, "Credit limit exceeded"),
    "rate_limited": (429, "rate_limit", None, "You have reached your rate limit"),
    "overloaded": (503, "overloaded", None, "The server is currently overloaded"),
    "server_error": (500, "server_error", None, "Internal server error"),
    "moderated": (422, "invalid_request_error", None, "The prompt may contain NSFW content"),
}

# Nothing is published about these limits either; a strict imitation finds more mistakes.
Side = Annotated[int, Field(ge=64, le=1792, multiple_of=16)]


class Inputs(BaseModel):
    """The fields of a request, with the provider's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1)]
    model: str
    steps: Annotated[int, Field(ge=1, le=50)] = 20
    image_url: str | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=4)] = 1
    width: Side = 1024
    height: Side = 1024
    negative_prompt: str | None = None
    response_format: Literal["base64", "url"] = "url"
    guidance_scale: float = 3.5
    output_format: Literal["jpeg", "png"] = "jpeg"
    image_loras: list[dict[str, Any]] | None = None
    reference_images: list[str] | None = None
    disable_safety_checker: bool = False


class Shelf:
    """The pictures that were handed out as addresses, the oldest forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, tuple[str, Picture]] = OrderedDict()

    def put(self, prompt: str, picture: Picture) -> str:
        """Keep a picture; the name to ask for it by."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._pictures[name] = (prompt, picture)
            if len(self._pictures) > PICTURES_KEPT:
                self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> tuple[str, Picture] | None:
        """The picture and the prompt it was made from."""
        return self._pictures.get(name)


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix plus `/v1`."""
    bp = Blueprint("together", __name__)
    shelf = Shelf()

    @bp.post("/v1/images/generations")
    def generate() -> Response:
        desk.enter("submit")
        if refusal := _key_refusal():
            return refusal
        try:
            inputs = Inputs.model_validate(json_object(request.get_json(silent=True)))
        except ValidationError as problem:
            return _validation_answer(problem)
        if inputs.model not in MODELS:
            text = f"Unable to access model {inputs.model}."
            return _failure(404, "invalid_request_error", "model_not_available", text)
        strikes = desk.strike("submit", inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        job_id = secrets.token_urlsafe(12)
        desk.bill(
            prompt=inputs.prompt,
            model=inputs.model,
            job_id=job_id,
            count=inputs.n,
            seed=inputs.seed,
        )
        return desk.deliver(
            strikes,
            lambda: _answer(desk, shelf, job_id, inputs, strikes),
            seconds=desk.seconds(SECONDS + SECONDS_PER_FURTHER_PICTURE * (inputs.n - 1)),
        )

    @bp.get("/imgproxy/<name>")
    def download(name: str) -> Response:
        desk.enter("download")
        kept = shelf.get(name)
        if kept is None:
            return Response("Not Found", 404, mimetype="text/plain")
        prompt, picture = kept
        strikes = desk.strike("download", prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        return desk.deliver(strikes, lambda: Response(picture.body, mimetype=picture.mime_type))

    return bp


def _answer(desk: Desk, shelf: Shelf, job_id: str, inputs: Inputs, strikes: Strikes) -> Response:
    if "moderated_output" in strikes:
        return _failure(422, "invalid_request_error", None, "The image may contain NSFW content")
    if "failed" in strikes:
        return _failure(*REFUSALS["server_error"])
    count = 0 if "no_image" in strikes else inputs.n - ("fewer_images" in strikes)
    seed = secrets.randbelow(2**31) if inputs.seed is None else inputs.seed
    items: list[dict[str, Any]] = []
    for index in range(count):
        picture = desk.painter.picture(
            inputs.prompt,
            width=inputs.width,
            height=inputs.height,
            seed=seed + index,
            output_format=inputs.output_format,
            plain=desk.faults.plain,
            flaws=strikes,
        )
        if inputs.response_format == "url":
            path = url_for(".download", name=shelf.put(inputs.prompt, picture))
            item = {"url": request.host_url.rstrip("/") + path, "type": "url"}
        else:
            item = {"b64_json": base64.b64encode(picture.body).decode(), "type": "b64_json"}
        items.append({"index": index} | item)
    return jsonify(id=job_id, model=inputs.model, object="list", data=items)


def _key_refusal() -> Response | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    usable = scheme.lower() == "bearer" and key and "bad" not in key and "invalid" not in key
    return None if usable else _failure(*REFUSALS["bad_key"])


def _refusal(strikes: Strikes) -> Response | None:
    for name, refusal in REFUSALS.items():
        if name in strikes:
            response = _failure(*refusal)
            if name == "rate_limited" and strikes[name].retry_after is not None:
                response.headers["Retry-After"] = str(strikes[name].retry_after)
            return response
    return None


def _validation_answer(problem: ValidationError) -> Response:
    first = problem.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"])
    text = f"{param}: {first['msg']}"
    return _failure(400, "invalid_request_error", None, text, param=param)


def _failure(
    status: int, kind: str, code: str | None, message: str, *, param: str | None = None
) -> Response:
    response = jsonify(error={"message": message, "type": kind, "param": param, "code": code})
    response.status_code = status
    return response
