"""Replicate's API: takes a prediction, tells how it stands, and forgets its pictures in an hour."""

import re
import secrets
import string
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify, request, url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ops.sandbox.dialects.base import FOREIGN, Desk, json_object
from ops.sandbox.faults import Strikes

MODELS = ("black-forest-labs/flux-schnell",)
SECONDS = 1.2
STARTING = 0.3  # of the time; what follows is `processing`
URL_SECONDS = 3600.0
JOBS_KEPT = 100_000
LONGEST_WAIT = 60
SHORTEST_LIFE = 5

# aspect_ratio -> width and height of a megapixel
SIZES = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "21:9": (1536, 640),
    "3:2": (1216, 832),
    "2:3": (832, 1216),
    "4:5": (896, 1088),
    "5:4": (1088, 896),
    "3:4": (896, 1152),
    "4:3": (1152, 896),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}

# fault -> status, title, detail; struck before anything is bought
REFUSALS = {
    "bad_key": (401, "Unauthenticated", "You did not pass a valid authentication token"),
    "no_credit": (402, "Insufficient credit", "You have insufficient credit to run this model."),
    "rate_limited": (429, "Too many requests", "Request was throttled."),
    "overloaded": (503, "Service unavailable", "The service is temporarily unavailable."),
    "server_error": (500, "Internal server error", "An internal error occurred."),
}
# fault -> the `error` of a prediction that has failed
FAILURES = {
    "moderated": "NSFW content detected. Try running it again, or try a different prompt.",
    "moderated_output": (
        "The input or output was flagged as sensitive. Please try again with different inputs. "
        "(E005)"
    ),
    "failed": "Prediction interrupted; please retry (code: PA)",
}

_PREFER = re.compile(r"wait(?:=(\d{1,2}))?")
_CANCEL_AFTER = re.compile(r"(\d{1,6})([smh]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}

Ratio = Literal["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]


class FluxSchnell(BaseModel):
    """The model's `input`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    aspect_ratio: Ratio = "1:1"
    num_outputs: Annotated[int, Field(ge=1, le=4)] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=4)] = 4
    seed: int | None = None
    output_format: Literal["webp", "jpg", "png"] = "webp"
    output_quality: Annotated[int, Field(ge=0, le=100)] = 80
    disable_safety_checker: bool = False
    go_fast: bool = True
    megapixels: Literal["1", "0.25"] = "1"

    @property
    def size(self) -> tuple[int, int]:
        width, height = SIZES[self.aspect_ratio]
        return (width, height) if self.megapixels == "1" else (width // 2, height // 2)


class Call(BaseModel):
    """The body of a submit."""

    model_config = ConfigDict(extra="forbid")

    input: FluxSchnell
    stream: bool = False
    webhook: str | None = None
    webhook_events_filter: list[Literal["start", "output", "logs", "completed"]] | None = None


@dataclass(frozen=True)
class Prediction:
    """Accepted work. How it stands follows from the time, unless somebody has ended it."""

    id: str
    model: str
    inputs: FluxSchnell
    told: dict[str, Any]  # the input as it came
    seed: int
    started: float
    ready: float
    ends: float  # when Cancel-After ends it
    created: datetime
    cancelled: float | None = None
    strikes: Strikes = field(default_factory=dict)
    signature: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def status(self, strikes: Strikes, now: float) -> str:
        if "moderated" in strikes:
            return "failed"
        if "aborted" in strikes:
            return "aborted"
        over = self.ends if self.cancelled is None else min(self.ends, self.cancelled)
        if (now >= over) and (over < self.ready or "never_ready" in strikes):
            return "canceled"
        if now < self.started + STARTING * (self.ready - self.started):
            return "starting"
        if now < self.ready or "never_ready" in strikes:
            return "processing"
        if "unknown_status" in strikes:
            return "preempted"
        return "failed" if {"failed", "moderated_output"} & set(strikes) else "succeeded"


class Predictions:
    """The predictions of this process, the oldest forgotten beyond JOBS_KEPT."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Prediction] = OrderedDict()

    def keep(self, prediction: Prediction) -> None:
        with self._lock:
            self._kept[prediction.id] = prediction
            if len(self._kept) > JOBS_KEPT:
                self._kept.popitem(last=False)

    def get(self, prediction_id: str) -> Prediction | None:
        return self._kept.get(prediction_id)


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix plus `/v1`."""
    bp = Blueprint("replicate", __name__)
    predictions = Predictions()

    @bp.post("/v1/models/<path:model>/predictions")
    def submit(model: str) -> Response:
        if model not in MODELS:
            return _gone()
        desk.enter("submit")
        body = json_object(request.get_json(silent=True)) or {}
        if refusal := _key_refusal():
            return refusal
        try:
            call = Call.model_validate(body)
            life = _life(request.headers.get("Cancel-After"))
        except ValidationError as problem:
            return _validation_answer(problem)
        except ValueError as problem:
            return _problem(422, "Input validation failed", f"- {problem}\n")
        strikes = desk.strike("submit", call.input.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        prediction = _make_prediction(desk, model, call.input, body["input"], life, strikes)
        if not {"moderated", "aborted"} & set(strikes):
            desk.bill(
                prompt=call.input.prompt,
                model=model,
                job_id=prediction.id,
                count=call.input.num_outputs,
                seed=call.input.seed,
            )
        predictions.keep(prediction)
        waited = _wait_for(prediction)
        return desk.deliver(strikes, lambda: _submitted(prediction, waited=waited))

    @bp.get("/v1/predictions/<prediction_id>")
    def show(prediction_id: str) -> Response:
        desk.enter("poll")
        if refusal := _key_refusal():
            return refusal
        prediction = predictions.get(prediction_id)
        strikes = desk.strike("poll", prediction.inputs.prompt if prediction else "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        if prediction is None or "job_lost" in prediction.strikes | strikes:
            return desk.deliver(strikes, _gone)
        return desk.deliver(strikes, lambda: jsonify(_as_json(prediction, strikes)))

    @bp.post("/v1/predictions/<prediction_id>/cancel")
    def cancel(prediction_id: str) -> Response:
        prediction = predictions.get(prediction_id)
        if refusal := _key_refusal():
            return refusal
        if prediction is None:
            return _gone()
        if prediction.cancelled is None:
            prediction = replace(prediction, cancelled=time.monotonic())
            predictions.keep(prediction)
        return jsonify(_as_json(prediction, {}))

    @bp.get("/files/<prediction_id>/<signature>/<name>")
    def download(prediction_id: str, signature: str, name: str) -> Response:
        desk.enter("download")
        prediction = predictions.get(prediction_id)
        number = re.fullmatch(r"out-(\d)\.\w+", name)
        if prediction is None or number is None or signature != prediction.signature:
            return Response("Not Found", 404, mimetype="text/plain")
        strikes = desk.strike("download", prediction.inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        strikes = prediction.strikes | strikes
        return desk.deliver(strikes, lambda: _file(desk, prediction, int(number[1]), strikes))

    return bp


def _make_prediction(
    desk: Desk,
    model: str,
    inputs: FluxSchnell,
    told: dict[str, Any],
    life: float,
    strikes: Strikes,
) -> Prediction:
    now = time.monotonic()
    return Prediction(
        id="".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(26)),
        model=model,
        inputs=inputs,
        told=told,
        seed=secrets.randbelow(2**31) if inputs.seed is None else inputs.seed,
        started=now,
        ready=now + desk.seconds(SECONDS),
        ends=now + life,
        created=datetime.now(UTC),
        strikes=strikes,
    )


def _life(cancel_after: str | None) -> float:
    """Seconds until a prediction is ended. Raises ValueError for a header without sense."""
    if cancel_after is None:
        return 30 * 60.0
    found = _CANCEL_AFTER.fullmatch(cancel_after)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if seconds < SHORTEST_LIFE:
        raise ValueError(f"Cancel-After must be a duration of {SHORTEST_LIFE} seconds or more")
    return float(seconds)


def _wait_for(prediction: Prediction) -> bool:
    """Hold the connection as long as `Prefer: wait` asks, and say whether it does."""
    asked = _PREFER.fullmatch(request.headers.get("Prefer", ""))
    if asked is None:
        return False
    left = prediction.ready - time.monotonic()
    request.environ["sandbox.connection"].wait(min(left, int(asked[1] or LONGEST_WAIT)))
    return True


def _submitted(prediction: Prediction, *, waited: bool) -> Response:
    response = jsonify(_as_json(prediction, {}))
    unfinished = prediction.status(prediction.strikes, time.monotonic()) in (
        "starting",
        "processing",
    )
    response.status_code = 202 if waited and unfinished else 201
    return response


def _as_json(prediction: Prediction, strikes: Strikes) -> dict[str, Any]:
    strikes = prediction.strikes | strikes
    now = time.monotonic()
    status = prediction.status(strikes, now)
    removed = "data_removed" in strikes or now > prediction.ready + URL_SECONDS
    host = FOREIGN if "foreign_polling_url" in strikes else request.host_url.rstrip("/")
    own = url_for(".show", prediction_id=prediction.id)
    answer: dict[str, Any] = {
        "id": prediction.id,
        "model": prediction.model,
        "version": "hidden",
        "input": prediction.told,
        "logs": "",
        "output": None,
        "data_removed": False,
        "error": None,
        "source": "api",
        "status": status,
        "created_at": _instant(prediction.created),
        "urls": {
            "get": f"{host}{own}",
            "cancel": f"{host}{own}/cancel",
            "web": f"https://replicate.com/p/{prediction.id}",
        },
    }
    if status in ("starting", "processing", "preempted"):
        return answer
    took = prediction.ready - prediction.started
    answer["completed_at"] = _instant(prediction.created + timedelta(seconds=took))
    if removed:
        return answer | {"input": {}, "data_removed": True}
    if status == "failed":
        answer["error"] = next(text for name, text in FAILURES.items() if name in strikes)
    if status == "succeeded":
        count = 0 if "no_image" in strikes else prediction.inputs.num_outputs
        count -= "fewer_images" in strikes
        answer["output"] = [_file_url(prediction, number, strikes) for number in range(count)]
        answer["logs"] = f"Using seed: {prediction.seed}\n"
        answer["metrics"] = {"predict_time": round(took, 3), "total_time": round(took, 3)}
    return answer


def _instant(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _file_url(prediction: Prediction, number: int, strikes: Strikes) -> str:
    host = FOREIGN if "foreign_image_url" in strikes else request.host_url.rstrip("/")
    return host + url_for(
        ".download",
        prediction_id=prediction.id,
        signature=prediction.signature,
        name=f"out-{number}.{prediction.inputs.output_format}",
    )


def _file(desk: Desk, prediction: Prediction, number: int, strikes: Strikes) -> Response:
    if "expired_url" in strikes or time.monotonic() > prediction.ready + URL_SECONDS:
        return Response("Forbidden", 403, mimetype="text/plain")
    if "redirect_image" in strikes:
        return Response(status=302, headers={"Location": f"{FOREIGN}/latest/meta-data/"})
    inputs = prediction.inputs
    width, height = inputs.size
    picture = desk.painter.picture(
        inputs.prompt,
        width=width,
        height=height,
        seed=prediction.seed + number,
        output_format="jpeg" if inputs.output_format == "jpg" else inputs.output_format,
        quality=inputs.output_quality,
        plain=desk.faults.plain,
        flaws=strikes,
    )
    return Response(picture.body, mimetype=picture.mime_type)


def _key_refusal() -> Response | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    usable = scheme == "Bearer" and key and "bad" not in key and "invalid" not in key
    return None if usable else _problem(*REFUSALS["bad_key"])


def _refusal(strikes: Strikes) -> Response | None:
    for name, (status, title, detail) in REFUSALS.items():
        if name not in strikes:
            continue
        wait = strikes[name].retry_after
        if name != "rate_limited" or wait is None:
            return _problem(status, title, detail)
        response = _problem(status, title, f"{detail} Your rate limit resets in ~{wait}s.")
        # Told in words only, unless somebody asks for more.
        if "retry_after" in strikes[name].model_fields_set:
            response.headers["Retry-After"] = str(wait)
        return response
    return None


def _validation_answer(problem: ValidationError) -> Response:
    fields = [
        {
            "type": error["type"],
            "field": ".".join(str(part) for part in error["loc"]),
            "description": error["msg"],
        }
        for error in problem.errors(include_url=False, include_context=False)
    ]
    detail = "".join(f"- {wrong['field']}: {wrong['description']}\n" for wrong in fields)
    return _problem(422, "Input validation failed", detail, invalid_fields=fields)


def _gone() -> Response:
    return _problem(404, "Not found", "The requested resource could not be found.")


def _problem(status: int, title: str, detail: str, **more: Any) -> Response:
    response = jsonify(title=title, detail=detail, status=status, **more)
    response.status_code = status
    response.mimetype = "application/problem+json"
    return response
