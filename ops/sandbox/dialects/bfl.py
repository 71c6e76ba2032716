"""Black Forest Labs' API: takes a job, is asked about it, and hands out a short-lived URL."""

import secrets
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from flask import Blueprint, Response, jsonify, request, url_for
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ops.sandbox.dialects.base import FOREIGN, Desk, json_object
from ops.sandbox.faults import Strikes
from ops.sandbox.pictures import BadSource, Sources, read_source_in_base64

URL_SECONDS = 600.0
JOBS_KEPT = 100_000
ACTIVE_LIMIT_PER_MODEL = {"flux-kontext-max": 6}
FLUX_2_PIXELS = 4 * 1024 * 1024
CREDITS = 1000.0

# fault -> status, error, message; struck before anything is bought
REFUSALS = {
    "bad_key": (401, "invalid_api_key", "The API key is invalid"),
    "no_credit": (402, "insufficient_credits", "Your account does not have enough credits"),
    "active_limit": (429, "rate_limit_exceeded", "Too many concurrent requests"),
    "rate_limited": (429, "rate_limit_exceeded", "Too many requests"),
    "overloaded": (503, "service_unavailable", "The service is overloaded"),
    "server_error": (500, "internal_server_error", "Internal server error"),
}

Optional01 = Annotated[float, Field(ge=0, le=1)]
Side11 = Annotated[int, Field(ge=256, le=1440, multiple_of=32)]
Side2 = Annotated[int, Field(ge=64)]


class Inputs(BaseModel):
    """The fields all models share, and the size of the picture they ask for."""

    prompt: str
    seed: int | None = None
    output_format: Literal["jpeg", "png", "webp"] | None = "jpeg"
    webhook_url: Annotated[str | None, Field(min_length=1, max_length=2083)] = None
    webhook_secret: str | None = None

    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        raise NotImplementedError

    @property
    def sources(self) -> Sources | None:
        """The pictures it starts from. Raises BadSource."""
        names = ["input_image", *(f"input_image_{number}" for number in range(2, 9))]
        given = [text for name in names if (text := getattr(self, name, None))]
        if not given:
            return None
        return Sources(tuple(read_source_in_base64(text) for text in given))

    @property
    def default_format(self) -> str:
        return str(type(self).model_fields["output_format"].default)


class FluxPro11(Inputs):
    prompt: str | None = ""  # type: ignore[assignment]  # this model may do without
    image_prompt: str | None = None
    width: Side11 = 1024
    height: Side11 = 768
    prompt_upsampling: bool = False
    safety_tolerance: Annotated[int, Field(ge=0, le=6)] = 2

    def size(self) -> tuple[int, int]:
        return self.width, self.height


class FluxDev(FluxPro11):
    prompt: str = ""
    steps: Annotated[int | None, Field(ge=1, le=50)] = 28
    guidance: Annotated[float | None, Field(ge=1.5, le=5)] = 3.0


class FluxUltra(Inputs):
    prompt: str | None = ""  # type: ignore[assignment]  # this model may do without
    prompt_upsampling: bool = False
    aspect_ratio: str = "16:9"
    safety_tolerance: Annotated[int, Field(ge=0, le=6)] = 2
    raw: bool = False
    image_prompt: str | None = None
    image_prompt_strength: Optional01 = 0.1

    @model_validator(mode="after")
    def _check(self) -> Self:
        _parse_ratio(self.aspect_ratio, widest=21 / 9)
        return self

    def size(self) -> tuple[int, int]:
        return _size_for(_parse_ratio(self.aspect_ratio, widest=21 / 9), 4 * 1024 * 1024)


class FluxKontext(Inputs):
    input_image: str | None = None
    input_image_2: str | None = None
    input_image_3: str | None = None
    input_image_4: str | None = None
    aspect_ratio: str | None = None
    output_format: Literal["jpeg", "png", "webp"] | None = "png"
    prompt_upsampling: bool = False
    safety_tolerance: Annotated[int, Field(ge=0, le=6)] = 2

    @model_validator(mode="after")
    def _check(self) -> Self:
        _parse_ratio(self.aspect_ratio or "1:1", widest=7 / 3)
        return self

    def size(self) -> tuple[int, int]:
        return _size_for(_parse_ratio(self.aspect_ratio or "1:1", widest=7 / 3), 1024 * 1024)


class Flux2(Inputs):
    input_image: str | None = None
    input_image_2: str | None = None
    input_image_3: str | None = None
    input_image_4: str | None = None
    width: Side2 | None = None
    height: Side2 | None = None
    safety_tolerance: Annotated[int, Field(ge=0, le=5)] = 2

    @model_validator(mode="after")
    def _check(self) -> Self:
        width, height = self.size()
        for name, side in (("width", width), ("height", height)):
            if side % 16:
                raise PydanticCustomError(name, "Input should be a multiple of 16")
        if width * height > FLUX_2_PIXELS:
            raise PydanticCustomError("width", "The picture should have at most 4 megapixels")
        return self

    def size(self) -> tuple[int, int]:
        return self.width or 1024, self.height or 1024


class Flux2Large(Flux2):
    input_image_5: str | None = None
    input_image_6: str | None = None
    input_image_7: str | None = None
    input_image_8: str | None = None


class Flux2Flex(Flux2Large):
    prompt_upsampling: bool | None = True
    input_image_blob_path: str | None = None
    guidance: Annotated[float | None, Field(ge=1.5, le=10)] = 5.0
    steps: Annotated[int | None, Field(ge=1, le=50)] = 50


@dataclass(frozen=True)
class Model:
    """What a model accepts, charges (credits for the first and each further megapixel), takes."""

    inputs: type[Inputs]
    credits: float
    credits_per_further_mp: float
    seconds: float

    def cost(self, megapixels: float) -> float:
        return round(self.credits + self.credits_per_further_mp * max(0.0, megapixels - 1), 2)


MODELS = {
    "flux-pro-1.1": Model(FluxPro11, 4.0, 0.0, 5.0),
    "flux-pro-1.1-ultra": Model(FluxUltra, 6.0, 0.0, 9.0),
    "flux-dev": Model(FluxDev, 2.5, 0.0, 4.0),
    "flux-kontext-pro": Model(FluxKontext, 4.0, 0.0, 6.0),
    "flux-kontext-max": Model(FluxKontext, 8.0, 0.0, 9.0),
    "flux-2-pro": Model(Flux2Large, 3.0, 1.5, 5.0),
    "flux-2-pro-preview": Model(Flux2Large, 3.0, 1.5, 5.0),
    "flux-2-max": Model(Flux2Large, 7.0, 3.0, 9.0),
    "flux-2-flex": Model(Flux2Flex, 5.0, 5.0, 7.0),
    "flux-2-klein-4b": Model(Flux2, 1.4, 0.1, 1.5),
    "flux-2-klein-9b": Model(Flux2, 1.5, 0.2, 2.0),
}


@dataclass(frozen=True)
class Job:
    """Work the provider has accepted and billed. Its state follows from the time alone."""

    id: str
    model: str
    prompt: str
    seed: int
    width: int
    height: int
    output_format: str
    cost: float
    started: float
    ready: float
    sources: Sources | None = None
    strikes: Strikes = field(default_factory=dict)
    signature: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def is_running(self) -> bool:
        return time.monotonic() < self.ready or "never_ready" in self.strikes


class Jobs:
    """The jobs of this process, the oldest forgotten beyond JOBS_KEPT."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def add(self, job: Job) -> None:
        with self._lock:
            self._jobs[job.id] = job
            if len(self._jobs) > JOBS_KEPT:
                self._jobs.popitem(last=False)

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def running(self, model: str | None = None) -> int:
        with self._lock:
            return sum(job.is_running and model in (None, job.model) for job in self._jobs.values())


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("bfl", __name__)
    jobs = Jobs()

    @bp.post("/v1/<model>")
    def submit(model: str) -> Response:
        if model not in MODELS:
            return _detail(404, "Not Found")
        desk.enter("submit")
        if refusal := _key_refusal():
            return refusal
        try:
            inputs = MODELS[model].inputs.model_validate(json_object(request.get_json(silent=True)))
            sources = inputs.sources
        except ValidationError as problem:
            return _validation_answer(problem)
        except BadSource as problem:
            told = {"type": "value_error", "loc": ["body", "input_image"], "msg": str(problem)}
            return _detail(422, [told])
        prompt = inputs.prompt or ""
        strikes = desk.strike("submit", prompt)
        if refusal := _refusal(_without_idle_limit(strikes, jobs, model)):
            return desk.deliver(strikes, lambda: refusal)
        job = _make_job(desk, model, inputs, strikes)
        if sources is not None:
            job = replace(job, sources=sources.small())
        if "moderated" not in strikes:
            desk.bill(prompt=prompt, model=model, job_id=job.id, seed=inputs.seed)
        jobs.add(job)
        return desk.deliver(strikes, lambda: _accepted(job, inputs.webhook_url))

    @bp.get("/v1/get_result")
    def get_result() -> Response:
        desk.enter("poll")
        if refusal := _key_refusal():
            return refusal
        job_id = request.args.get("id")
        if job_id is None:
            missing = {"type": "missing", "loc": ["query", "id"], "msg": "Field required"}
            return _detail(422, [missing])
        job = jobs.get(job_id)
        strikes = desk.strike("poll", job.prompt if job else "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        return desk.deliver(strikes, lambda: jsonify(_state(job_id, job, strikes)))

    @bp.get("/results/<job_id>/<name>")
    def download(job_id: str, name: str) -> Response:
        desk.enter("download")
        job = jobs.get(job_id)
        if job is None or job.is_running or request.args.get("sig") != job.signature:
            return Response(
                "<Error><Code>ResourceNotFound</Code></Error>", 404, mimetype="text/xml"
            )
        strikes = desk.strike("download", job.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        return desk.deliver(strikes, lambda: _sample(desk, job, job.strikes | strikes))

    @bp.get("/v1/credits")
    def show_credits() -> Response:
        return _key_refusal() or jsonify(credits=CREDITS)

    return bp


def _make_job(desk: Desk, model: str, inputs: Inputs, strikes: Strikes) -> Job:
    width, height = inputs.size()
    now = time.monotonic()
    return Job(
        id=str(uuid.uuid4()),
        model=model,
        prompt=inputs.prompt or "",
        seed=secrets.randbelow(2**31) if inputs.seed is None else inputs.seed,
        width=width,
        height=height,
        output_format=inputs.output_format or inputs.default_format,
        cost=MODELS[model].cost(width * height / 1_000_000),
        started=now,
        ready=now + desk.seconds(MODELS[model].seconds),
        strikes=strikes,
    )


def _accepted(job: Job, webhook_url: str | None) -> Response:
    bill = {"cost": job.cost, "input_mp": 0, "output_mp": round(job.width * job.height / 1e6, 2)}
    if webhook_url is not None:
        return jsonify({"id": job.id, "status": "Pending", "webhook_url": webhook_url} | bill)
    host = FOREIGN if "foreign_polling_url" in job.strikes else request.host_url.rstrip("/")
    return jsonify({"id": job.id, "polling_url": host + url_for(".get_result", id=job.id)} | bill)


def _state(job_id: str, job: Job | None, strikes: Strikes) -> dict[str, Any]:
    state: dict[str, Any] = {
        "id": job_id,
        "status": "Task not found",
        "result": None,
        "progress": None,
        "details": None,
        "preview": None,
    }
    if job is None:
        return state
    strikes = job.strikes | strikes
    now = time.monotonic()
    if "job_lost" in strikes:
        return state
    if "moderated" in strikes:
        reasons = {"Moderation Reasons": ["Safety Filter"]}
        return state | {"status": "Request Moderated", "details": reasons}
    if job.is_running or "never_ready" in strikes:
        progress = min(0.95, (now - job.started) / max(job.ready - job.started, 1e-9))
        return state | {"status": "Pending", "progress": round(progress, 3)}
    if "unknown_status" in strikes:
        return state | {"status": "Preempted"}
    if "moderated_output" in strikes:
        reasons = {"Moderation Reasons": ["Derivative Works Filter"]}
        return state | {"status": "Content Moderated", "details": reasons}
    if "failed" in strikes:
        return state | {"status": "Error", "details": {"error": "The generation failed"}}
    result = {"sample": _sample_url(job, strikes), "prompt": job.prompt, "seed": job.seed}
    if "no_image" in strikes:
        del result["sample"]
    return state | {"status": "Ready", "result": result, "cost": job.cost}


def _sample_url(job: Job, strikes: Strikes) -> str:
    host = FOREIGN if "foreign_image_url" in strikes else request.host_url.rstrip("/")
    name = f"sample.{job.output_format}"
    return host + url_for(".download", job_id=job.id, name=name, sig=job.signature)


def _sample(desk: Desk, job: Job, strikes: Strikes) -> Response:
    if "expired_url" in strikes or time.monotonic() > job.ready + URL_SECONDS:
        body = (
            "<Error><Code>AuthenticationFailed</Code><Message>Signature expired</Message></Error>"
        )
        return Response(body, 403, mimetype="text/xml")
    if "redirect_image" in strikes:
        return Response(status=302, headers={"Location": f"{FOREIGN}/latest/meta-data/"})
    picture = desk.painter.picture(
        job.prompt,
        width=job.width,
        height=job.height,
        seed=job.seed,
        output_format=job.output_format,
        plain=desk.faults.plain,
        flaws=strikes,
        sources=job.sources,
    )
    return Response(picture.body, mimetype=picture.mime_type)


def _refusal(strikes: Strikes) -> Response | None:
    for name, (status, error, message) in REFUSALS.items():
        if name not in strikes:
            continue
        body: dict[str, Any] = {"error": error, "message": message}
        headers = {}
        if status == 429 and strikes[name].retry_after is not None:
            body["retry_after"] = strikes[name].retry_after
            headers["Retry-After"] = str(strikes[name].retry_after)
        response = jsonify(body)
        response.status_code = status
        response.headers.update(headers)
        return response
    return None


def _without_idle_limit(strikes: Strikes, jobs: Jobs, model: str) -> Strikes:
    """The strikes, less an `active_limit` that is not reached."""
    if "active_limit" not in strikes:
        return strikes
    own_limit = ACTIVE_LIMIT_PER_MODEL.get(model)
    reached = jobs.running() >= strikes["active_limit"].limit or (
        own_limit is not None and jobs.running(model) >= own_limit
    )
    return {name: strikes[name] for name in strikes if reached or name != "active_limit"}


def _key_refusal() -> Response | None:
    key = request.headers.get("X-Key", "")
    if not key:
        return _detail(403, "Not authenticated")
    if "bad" in key or "invalid" in key:
        status, error, message = REFUSALS["bad_key"]
        response = jsonify(error=error, message=message)
        response.status_code = status
        return response
    return None


def _validation_answer(problem: ValidationError) -> Response:
    detail = []
    for error in problem.errors(include_url=False, include_context=False):
        # What a rule over several fields found wrong carries its field as its type.
        crossing = error["type"] in ("width", "height", "aspect_ratio")
        loc = ["body", error["type"]] if crossing else ["body", *error["loc"]]
        kind = "value_error" if crossing else error["type"]
        detail.append({"type": kind, "loc": loc, "msg": error["msg"]})
    return _detail(422, detail)


def _detail(status: int, detail: Any) -> Response:
    response = jsonify(detail=detail)
    response.status_code = status
    return response


def _parse_ratio(text: str, *, widest: float) -> float:
    width, _, height = text.partition(":")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise PydanticCustomError("aspect_ratio", "Input should look like '16:9'")
    ratio = int(width) / int(height)
    if not 1 / widest <= ratio <= widest:
        raise PydanticCustomError("aspect_ratio", "The aspect ratio is out of range")
    return ratio


def _size_for(ratio: float, pixels: int) -> tuple[int, int]:
    height = (pixels / ratio) ** 0.5
    return round(height * ratio / 32) * 32, round(height / 32) * 32
