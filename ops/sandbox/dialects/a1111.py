"""AUTOMATIC1111's web API: draws one request after the other, and answers when it is done."""

import base64
import binascii
import json
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify, request
from PIL import ImageOps
from pydantic import BaseModel, Field, ValidationError

from ops.sandbox.dialects.base import Desk, json_object
from ops.sandbox.faults import Strikes
from ops.sandbox.pictures import BadSource, Sources, read_source_in_base64

SECONDS = 5.0
SECONDS_PER_FURTHER_PICTURE = 3.0
REMEMBERED = 16  # requests that are over
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M")

# The first is loaded.
CHECKPOINTS = [
    {
        "title": f"{name}.safetensors [{sha256[:10]}]",
        "model_name": name,
        "hash": sha256[:10],
        "sha256": sha256,
        "filename": f"/srv/webui/models/Stable-diffusion/{name}.safetensors",
        "config": None,
    }
    for name, sha256 in (("sandbox-xl", "5a4d" * 16), ("sandbox-anime", "a41e" * 16))
]

# fault -> status, class of the exception, detail, text; struck before anything is begun
REFUSALS = {
    "bad_key": (401, "HTTPException", "Incorrect username or password", ""),
    "server_error": (500, "RuntimeError", "", "The sandbox was asked to fail."),
}


class Inputs(BaseModel):
    """The fields that say something about a picture. Any other is ignored, as the server does."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    sampler_name: str | None = None
    sampler_index: str = "Euler"
    batch_size: Annotated[int, Field(ge=1)] = 1
    n_iter: Annotated[int, Field(ge=1)] = 1
    steps: Annotated[int, Field(ge=1)] = 50
    cfg_scale: float = 7.0
    width: Annotated[int, Field(ge=8)] = 512
    height: Annotated[int, Field(ge=8)] = 512
    override_settings: dict[str, Any] | None = None
    force_task_id: str | None = None
    send_images: bool = True

    @property
    def count(self) -> int:
        return self.batch_size * self.n_iter

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture: whatever is asked, both are multiples of 8."""
        return self.width - self.width % 8, self.height - self.height % 8

    @property
    def checkpoint(self) -> dict[str, Any]:
        """The one that draws: if nobody knows the name, the loaded one does so without a word."""
        asked = (self.override_settings or {}).get("sd_model_checkpoint")
        names = ("title", "model_name", "hash", "sha256")
        known = (entry for entry in CHECKPOINTS if asked in [entry[name] for name in names])
        return next(known, CHECKPOINTS[0])


class ImageInputs(Inputs):
    """The fields of img2img."""

    init_images: Annotated[list[str], Field(min_length=1)]
    mask: str | None = None
    inpainting_mask_invert: int = 0
    denoising_strength: Annotated[float, Field(ge=0, le=1)] = 0.75

    @property
    def sources(self) -> Sources:
        """The pictures it starts from. Raises BadSource."""
        images = tuple(read_source_in_base64(text) for text in self.init_images)
        if self.mask is None:
            return Sources(images)
        mask = read_source_in_base64(self.mask).convert("L")
        return Sources(images, ImageOps.invert(mask) if self.inpainting_mask_invert else mask)


@dataclass(frozen=True)
class Job:
    """A request that is in hand. How far it is follows from the time alone."""

    id: str
    begun: float
    ready: float
    steps: int

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ready

    @property
    def is_running(self) -> bool:
        return self.begun <= time.monotonic() < self.ready

    @property
    def step(self) -> int:
        share = (time.monotonic() - self.begun) / max(self.ready - self.begun, 1e-9)
        return int(self.steps * min(max(share, 0.0), 1.0))

    @property
    def progress(self) -> float:
        return self.step / self.steps

    @property
    def eta(self) -> float:
        return max(0.0, self.ready - time.monotonic())


class Queue:
    """The requests in hand, in the order in which they are worked on: one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[Job] = []

    def add(self, job_id: str, seconds: float, steps: int) -> Job:
        with self._lock:
            begun = max([time.monotonic(), *(job.ready for job in self._jobs)])
            job = Job(job_id, begun, begun + seconds, steps)
            over = [job for job in self._jobs if job.is_over]
            self._jobs = [*over[-REMEMBERED:], *self._jobs[len(over) :], job]
            return job

    def get(self, job_id: str) -> Job | None:
        with self._lock:
            return next((job for job in reversed(self._jobs) if job.id == job_id), None)

    def running(self) -> Job | None:
        with self._lock:
            return next((job for job in self._jobs if job.is_running), None)


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("a1111", __name__)
    queue = Queue()

    @bp.post("/sdapi/v1/txt2img")
    def generate() -> Response:
        return sell(Inputs)

    @bp.post("/sdapi/v1/img2img")
    def generate_from_image() -> Response:
        return sell(ImageInputs)

    def sell(kind: type[Inputs]) -> Response:
        desk.enter("submit")
        if refusal := _key_refusal():
            return refusal
        try:
            inputs = kind.model_validate(json_object(request.get_json(silent=True)))
            sources = inputs.sources if isinstance(inputs, ImageInputs) else None
        except ValidationError as problem:
            return _validation_answer(problem)
        except BadSource:
            return _failure(500, "HTTPException", "Invalid encoded image", "")
        if (inputs.sampler_name or inputs.sampler_index) not in SAMPLERS:
            return _failure(404, "HTTPException", "Sampler not found", "")
        strikes = desk.strike("submit", inputs.prompt)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        job_id = inputs.force_task_id or f"task(txt2img-{secrets.token_hex(8)})"
        model = inputs.checkpoint["model_name"]
        if "failed" not in strikes:
            desk.bill(prompt=inputs.prompt, model=model, job_id=job_id, count=inputs.count)
        typical = SECONDS + SECONDS_PER_FURTHER_PICTURE * (inputs.count - 1)
        job = queue.add(job_id, desk.seconds(typical), inputs.steps)
        return desk.deliver(
            strikes, lambda: _answer(desk, inputs, sources, strikes), seconds=job.eta
        )

    @bp.get("/sdapi/v1/progress")
    def progress() -> Response:
        desk.enter("poll")
        if refusal := _key_refusal():
            return refusal
        return jsonify(_progress(queue.running()))

    @bp.post("/internal/progress")
    def internal_progress() -> Response:
        # A part of the user interface: --api-auth is not for it.
        desk.enter("poll")
        body = json_object(request.get_json(silent=True)) or {}
        return jsonify(_internal_progress(queue.get(str(body.get("id_task")))))

    @bp.get("/sdapi/v1/sd-models")
    def list_checkpoints() -> Response:
        return _key_refusal() or jsonify(CHECKPOINTS)

    return bp


def _answer(desk: Desk, inputs: Inputs, sources: Sources | None, strikes: Strikes) -> Response:
    if "failed" in strikes:
        return _failure(500, "OutOfMemoryError", "", "CUDA out of memory.")
    seed = secrets.randbelow(2**32) if inputs.seed == -1 else inputs.seed
    seeds = [seed + number for number in range(inputs.count)]
    width, height = inputs.size

    def drawn(seed: int, scale: int = 1) -> str:
        picture = desk.painter.picture(
            inputs.prompt,
            width=scale * width,
            height=scale * height,
            seed=seed,
            output_format="png",
            plain=desk.faults.plain,
            grid=scale > 1,
            flaws=strikes,
            sources=sources,
        )
        return base64.b64encode(picture.body).decode()

    has_grid = "grid_first" in strikes and inputs.count > 1
    images: list[str] = []
    if inputs.send_images and "no_image" not in strikes:
        kept = seeds[: inputs.count - ("fewer_images" in strikes)]
        images = [drawn(seed, 2)] * has_grid + [drawn(seed) for seed in kept]
    info = {
        "prompt": inputs.prompt,
        "all_prompts": [inputs.prompt] * inputs.count,
        "negative_prompt": inputs.negative_prompt,
        "seed": seed,
        "all_seeds": seeds,
        "width": width,
        "height": height,
        "sampler_name": inputs.sampler_name or inputs.sampler_index,
        "cfg_scale": inputs.cfg_scale,
        "steps": inputs.steps,
        "batch_size": inputs.batch_size,
        "sd_model_name": inputs.checkpoint["model_name"],
        "sd_model_hash": inputs.checkpoint["hash"],
        "index_of_first_image": int(has_grid),
        "infotexts": [f"{inputs.prompt}\nSteps: {inputs.steps}, Seed: {each}" for each in seeds],
    }
    text = "" if "bad_info" in strikes else json.dumps(info)
    parameters = inputs.model_dump(exclude={"init_images", "mask"})
    return jsonify(images=images, parameters=parameters, info=text)


def _progress(job: Job | None) -> dict[str, Any]:
    """Of the request that runs now, whoever's it is. The server forgets to say whose."""
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "scripts_txt2img" if job else "",
        "job_count": 1 if job else 0,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "job_no": 0,
        "sampling_step": job.step if job else 0,
        "sampling_steps": job.steps if job else 0,
    }
    return {
        "progress": job.progress if job else 0,
        "eta_relative": job.eta if job else 0,
        "state": state,
        "current_image": None,
        "textinfo": None,
        "current_task": None,
    }


def _internal_progress(job: Job | None) -> dict[str, Any]:
    is_running = job is not None and job.is_running
    is_queued = job is not None and not is_running and not job.is_over
    return {
        "active": is_running,
        "queued": is_queued,
        "completed": job is not None and job.is_over,
        "progress": job.progress if job and is_running else None,
        "eta": job.eta if job and is_running else None,
        "live_preview": None,
        "id_live_preview": -1,
        "textinfo": None if is_running else "In queue..." if is_queued else "Waiting...",
    }


def _key_refusal() -> Response | None:
    """No key is asked for; one that is given has to look like one."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if not scheme:
        return None
    try:
        key = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        key = "invalid"
    usable = scheme.lower() == "basic" and key and "bad" not in key and "invalid" not in key
    return None if usable else _failure(*REFUSALS["bad_key"])


def _refusal(strikes: Strikes) -> Response | None:
    for name, refusal in REFUSALS.items():
        if name in strikes:
            return _failure(*refusal)
    return None


def _validation_answer(problem: ValidationError) -> Response:
    response = jsonify(
        detail=[
            {"loc": ["body", *error["loc"]], "msg": error["msg"], "type": error["type"]}
            for error in problem.errors(include_url=False, include_context=False)
        ]
    )
    response.status_code = 422
    return response


def _failure(status: int, error: str, detail: str, errors: str) -> Response:
    response = jsonify(error=error, detail=detail, body="", errors=errors)
    response.status_code = status
    return response
