"""fal's queue: takes a request, says when it is over, and keeps what came of it elsewhere."""

import base64
import secrets
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify, request, url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ops.sandbox.dialects.base import FOREIGN, Desk, json_object
from ops.sandbox.faults import Strikes

MODELS = ("fal-ai/flux/schnell",)
SECONDS = 1.0
IN_QUEUE = 0.2  # of the time; what follows is `IN_PROGRESS`
URL_SECONDS = 3600.0
JOBS_KEPT = 100_000

SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}

# fault -> status, detail; struck before anything is bought
REFUSALS = {
    "bad_key": (401, "Cannot access application, the key is not valid."),
    "no_credit": (
        403,
        "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard.",
    ),
    "rate_limited": (429, "Too many concurrent requests."),
    "overloaded": (503, "Service unavailable"),
    "server_error": (500, "Internal server error"),
}
# fault -> status, where, text and type of what the place of the result says
FAILURES = {
    "moderated": (
        422,
        ["body", "prompt"],
        "The content could not be processed because it was flagged by a content checker.",
        "content_policy_violation",
    ),
    "failed": (500, ["body"], "Internal server error", "internal_server_error"),
}

Side = Annotated[int, Field(ge=64, le=14_142)]


class Size(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: Side = 512
    height: Side = 512


class FluxSchnell(BaseModel):
    """The body of a submit."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    image_size: (
        Size
        | Literal[
            "square_hd",
            "square",
            "portrait_4_3",
            "portrait_16_9",
            "landscape_4_3",
            "landscape_16_9",
        ]
    ) = "landscape_4_3"
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=12)] = 4
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = 3.5
    seed: int | None = None
    enable_safety_checker: bool = True
    output_format: Literal["jpeg", "png"] = "jpeg"
    acceleration: Literal["none", "regular", "high"] = "none"
    sync_mode: bool = False

    @property
    def size(self) -> tuple[int, int]:
        if isinstance(self.image_size, Size):
            return self.image_size.width, self.image_size.height
        return SIZES[self.image_size]


@dataclass(frozen=True)
class Job:
    """Accepted work. How it stands follows from the time, unless somebody has ended it."""

    id: str
    inputs: FluxSchnell
    seed: int
    started: float
    ready: float
    cancelled: bool = False
    strikes: Strikes = field(default_factory=dict)
    signature: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def status(self, strikes: Strikes) -> str:
        now = time.monotonic()
        if self.cancelled:
            return "COMPLETED"
        if now < self.started + IN_QUEUE * (self.ready - self.started):
            return "IN_QUEUE"
        if now < self.ready or "never_ready" in strikes:
            return "IN_PROGRESS"
        return "PREEMPTED" if "unknown_status" in strikes else "COMPLETED"


class Jobs:
    """The jobs of this process, the oldest forgotten beyond JOBS_KEPT."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Job] = OrderedDict()

    def keep(self, job: Job) -> None:
        with self._lock:
            self._kept[job.id] = job
            if len(self._kept) > JOBS_KEPT:
                self._kept.popitem(last=False)

    def get(self, job_id: str) -> Job | None:
        return self._kept.get(job_id)


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("fal", __name__)
    jobs = Jobs()

    @bp.post("/<path:model>")
    def submit(model: str) -> Response:
        if model not in MODELS:
            return _detail(404, f"Application '{model}' not found")
        desk.enter("submit")
        if refusal := _key_refusal():
            return refusal
        try:
            inputs = FluxSchnell.model_validate(json_object(request.get_json(silent=True)))
        except ValidationError as problem:
            return _validation_answer(problem)
        strikes = desk.strike("submit", inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        job = _make_job(desk, inputs, strikes)
        if not set(FAILURES) & set(strikes):  # neither is charged
            desk.bill(
                prompt=inputs.prompt,
                model=model,
                job_id=job.id,
                count=inputs.num_images,
                seed=inputs.seed,
            )
        jobs.keep(job)
        return desk.deliver(strikes, lambda: _accepted(job))

    @bp.get("/fal-ai/flux/requests/<job_id>/status")
    def show_status(job_id: str) -> Response:
        desk.enter("poll")
        if refusal := _key_refusal():
            return refusal
        job = jobs.get(job_id)
        strikes = desk.strike("poll", job.inputs.prompt if job else "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        if job is None or "job_lost" in job.strikes | strikes:
            return desk.deliver(strikes, _gone)
        return desk.deliver(strikes, lambda: _status(job, strikes))

    @bp.get("/fal-ai/flux/requests/<job_id>")
    def show_result(job_id: str) -> Response:
        desk.enter("poll")
        if refusal := _key_refusal():
            return refusal
        job = jobs.get(job_id)
        strikes = desk.strike("poll", job.inputs.prompt if job else "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        if job is None or "job_lost" in job.strikes | strikes:
            return desk.deliver(strikes, _gone)
        return desk.deliver(strikes, lambda: _result(desk, job, job.strikes | strikes))

    @bp.put("/fal-ai/flux/requests/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        if refusal := _key_refusal():
            return refusal
        job = jobs.get(job_id)
        state = job.status(job.strikes) if job else ""
        if job is None:
            return _cancelling(404, "NOT_FOUND")
        if state == "COMPLETED":
            return _cancelling(400, "ALREADY_COMPLETED")
        if state == "IN_QUEUE":
            jobs.keep(replace(job, cancelled=True))
            return _cancelling(200, "OK")
        return _cancelling(202, "CANCELLATION_REQUESTED")

    @bp.get("/files/<job_id>/<signature>/<int:number>.<suffix>")
    def download(job_id: str, signature: str, number: int, suffix: str) -> Response:
        desk.enter("download")
        job = jobs.get(job_id)
        if job is None or signature != job.signature:
            return Response("Not Found", 404, mimetype="text/plain")
        strikes = desk.strike("download", job.inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        strikes = job.strikes | strikes
        return desk.deliver(strikes, lambda: _file(desk, job, number, strikes))

    return bp


def _make_job(desk: Desk, inputs: FluxSchnell, strikes: Strikes) -> Job:
    now = time.monotonic()
    return Job(
        id=str(uuid.uuid4()),
        inputs=inputs,
        seed=secrets.randbelow(2**31) if inputs.seed is None else inputs.seed,
        started=now,
        ready=now + desk.seconds(SECONDS),
        strikes=strikes,
    )


def _accepted(job: Job) -> Response:
    told = {"request_id": job.id} | _urls(job, job.strikes)
    response = jsonify(told | {"status": "IN_QUEUE", "queue_position": 0})
    response.headers["x-fal-request-id"] = job.id
    return response


def _urls(job: Job, strikes: Strikes) -> dict[str, str]:
    host = FOREIGN if "foreign_polling_url" in strikes else request.host_url.rstrip("/")
    return {
        "response_url": host + url_for(".show_result", job_id=job.id),
        "status_url": host + url_for(".show_status", job_id=job.id),
        "cancel_url": host + url_for(".cancel", job_id=job.id),
    }


def _status(job: Job, strikes: Strikes) -> Response:
    strikes = job.strikes | strikes
    state = job.status(strikes)
    told: dict[str, Any] = {"status": state, "request_id": job.id} | _urls(job, strikes)
    told |= {"queue_position": 0} if state == "IN_QUEUE" else {"logs": None}
    if state == "COMPLETED":
        told |= {"logs": [], "metrics": {"inference_time": round(job.ready - job.started, 3)}}
        for name, (_, _, text, kind) in FAILURES.items():
            if name in strikes:
                told |= {"error": text, "error_type": kind}
    response = jsonify(told)
    response.status_code = 200 if state == "COMPLETED" else 202
    return response


def _result(desk: Desk, job: Job, strikes: Strikes) -> Response:
    if job.cancelled:
        return _detail(499, "Request was cancelled", "client_cancelled")
    if job.status(strikes) != "COMPLETED":
        return _detail(400, "Request is still in progress")
    for name, (status, where, text, kind) in FAILURES.items():
        if name in strikes:
            response = _detail(status, [{"loc": where, "msg": text, "type": kind}])
            response.headers["X-Fal-Retryable"] = "false"
            return response
    count = 0 if "no_image" in strikes else job.inputs.num_images
    width, height = job.inputs.size
    blanked = [
        "moderated_output" in strikes or ("fewer_images" in strikes and number == 0)
        for number in range(count)
    ]
    images = [
        {
            "url": _file_url(desk, job, number, strikes),
            "width": width,
            "height": height,
            "content_type": f"image/{job.inputs.output_format}",
        }
        for number in range(count)
    ]
    return jsonify(
        images=images,
        timings={"inference": round(job.ready - job.started, 3)},
        seed=job.seed,
        has_nsfw_concepts=blanked,
        prompt=job.inputs.prompt,
    )


def _file_url(desk: Desk, job: Job, number: int, strikes: Strikes) -> str:
    if job.inputs.sync_mode:
        response = _file(desk, job, number, strikes)
        data = base64.b64encode(response.get_data()).decode()
        return f"data:{response.mimetype};base64,{data}"
    host = FOREIGN if "foreign_image_url" in strikes else request.host_url.rstrip("/")
    return host + url_for(
        ".download",
        job_id=job.id,
        signature=job.signature,
        number=number,
        suffix=job.inputs.output_format,
    )


def _file(desk: Desk, job: Job, number: int, strikes: Strikes) -> Response:
    if "expired_url" in strikes or time.monotonic() > job.ready + URL_SECONDS:
        return Response("Not Found", 404, mimetype="text/plain")
    if "redirect_image" in strikes:
        return Response(status=302, headers={"Location": f"{FOREIGN}/latest/meta-data/"})
    width, height = job.inputs.size
    picture = desk.painter.picture(
        job.inputs.prompt,
        width=width,
        height=height,
        seed=job.seed + number,
        output_format=job.inputs.output_format,
        # One flat colour stands for a picture that is not shown.
        plain=desk.faults.plain or "moderated_output" in strikes,
        flaws=strikes,
    )
    return Response(picture.body, mimetype=picture.mime_type)


def _key_refusal() -> Response | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    usable = scheme == "Key" and key and "bad" not in key and "invalid" not in key
    return None if usable else _detail(*REFUSALS["bad_key"])


def _refusal(strikes: Strikes) -> Response | None:
    for name, (status, detail) in REFUSALS.items():
        if name in strikes:
            response = _detail(status, detail)
            wait = strikes[name].retry_after
            if name == "rate_limited" and wait is not None:
                response.headers["Retry-After"] = str(wait)
            return response
    return None


def _validation_answer(problem: ValidationError) -> Response:
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    return _detail(422, [error | {"loc": ["body", *error["loc"]]} for error in errors])


def _gone() -> Response:
    return _detail(404, "Request not found")


def _cancelling(status: int, word: str) -> Response:
    response = jsonify(status=word)
    response.status_code = status
    return response


def _detail(status: int, detail: Any, error_type: str = "") -> Response:
    response = jsonify({"detail": detail} | ({"error_type": error_type} if error_type else {}))
    response.status_code = status
    if error_type:
        response.headers["X-Fal-Error-Type"] = error_type
    return response
