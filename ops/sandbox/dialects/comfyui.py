"""A ComfyUI: takes a graph of nodes, runs it, and tells of it when it is over.

It is of the newest kind, which takes the client's id for a job once and refuses it from then on.
Jobs do not wait for one another, as they would on a real one. What it does not have by itself, a
refusal of a key or of too many calls, comes as from a proxy before it.
"""

import itertools
import json
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, jsonify, request

from ops.sandbox.dialects.base import FOREIGN, Desk, json_object
from ops.sandbox.faults import Strikes

TYPICAL_SECONDS = 10.0
PENDING = 0.2  # of the time; then it runs
JOBS_KEPT = 100_000

CHECKPOINTS = ["sd_xl_base_1.0.safetensors", "v1-5-pruned-emaonly.safetensors"]
SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "ddim", "uni_pc"]
SCHEDULERS = ["normal", "karras", "exponential", "sgm_uniform", "simple"]


@dataclass(frozen=True)
class Number:
    """An input that takes numbers of this kind, from `low` to `high`."""

    kind: type[int] | type[float]
    low: float
    high: float


@dataclass(frozen=True)
class Kind:
    """A class of nodes. Of an input it says a list of words, a Number, or the type of a link."""

    returns: tuple[str, ...]
    inputs: dict[str, list[str] | Number | str]
    is_output: bool = False


NODES = {
    "CheckpointLoaderSimple": Kind(("MODEL", "CLIP", "VAE"), {"ckpt_name": CHECKPOINTS}),
    "CLIPTextEncode": Kind(("CONDITIONING",), {"text": "STRING", "clip": "CLIP"}),
    "EmptyLatentImage": Kind(
        ("LATENT",),
        {
            "width": Number(int, 16, 16384),
            "height": Number(int, 16, 16384),
            "batch_size": Number(int, 1, 4096),
        },
    ),
    "KSampler": Kind(
        ("LATENT",),
        {
            "model": "MODEL",
            "seed": Number(int, 0, 2**64 - 1),
            "steps": Number(int, 1, 10000),
            "cfg": Number(float, 0, 100),
            "sampler_name": SAMPLERS,
            "scheduler": SCHEDULERS,
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
            "denoise": Number(float, 0, 1),
        },
    ),
    "VAEDecode": Kind(("IMAGE",), {"samples": "LATENT", "vae": "VAE"}),
    "SaveImage": Kind((), {"images": "IMAGE", "filename_prefix": "STRING"}, is_output=True),
    "PreviewImage": Kind((), {"images": "IMAGE"}, is_output=True),
}

Graph = dict[str, dict[str, Any]]
View = Callable[..., Response]

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

_REFUSALS = {
    "bad_key": (401, "401 Unauthorized"),
    "rate_limited": (429, "429 Too Many Requests"),
    "overloaded": (503, "503 Service Unavailable"),
    "server_error": (500, "500 Internal Server Error"),
}


@dataclass(frozen=True)
class Work:
    """What a sound graph comes to."""

    text: str
    model: str
    width: int
    height: int
    seed: int
    count: int


@dataclass(frozen=True)
class Job:
    """A graph that was taken. How it stands follows from the time, unless somebody ended it."""

    id: str
    number: int
    graph: Graph
    work: Work
    started: float
    ready: float
    files: dict[str, list[dict[str, str]]]  # by the node that makes them
    is_interrupted: bool = False
    strikes: Strikes = field(default_factory=dict)

    def stage(self, strikes: Strikes) -> str:
        """One of `pending`, `running` and `over`."""
        now = time.monotonic()
        if self.is_interrupted:
            return "over"
        if now < self.started + PENDING * (self.ready - self.started):
            return "pending"
        return "running" if now < self.ready or "never_ready" in strikes else "over"

    @property
    def entry(self) -> list[Any]:
        return [self.number, self.id, self.graph, {}, list(self.files)]


class Jobs:
    """The jobs of this process and their files, the oldest forgotten beyond JOBS_KEPT."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Job] = OrderedDict()
        self._graphs: set[str] = set()
        self._files: dict[tuple[str, str, str], tuple[Job, int]] = {}
        self._job_numbers, self._file_numbers = itertools.count(1), itertools.count(1)

    def take(
        self, job_id: str, graph: Graph, work: Work, seconds: float, strikes: Strikes
    ) -> Job | None:
        """Begin a job; None when its id is taken.

        A graph that ran before is not run again: it is over at once, and makes no files.
        """
        now, written = time.monotonic(), json.dumps(graph, sort_keys=True)
        with self._lock:
            if job_id in self._kept:
                return None
            is_new = written not in self._graphs
            job = Job(
                job_id,
                next(self._job_numbers),
                graph,
                work,
                started=now,
                ready=now + seconds if is_new else now,
                files={node_id: self._name(graph[node_id], work) for node_id in outputs(graph)}
                if is_new
                else {},
                strikes=strikes,
            )
            self._graphs.add(written)
            self._kept[job_id] = job
            for files in job.files.values():
                self._files |= {_place(file): (job, at) for at, file in enumerate(files)}
            if len(self._kept) > JOBS_KEPT:
                self._forget(self._kept.popitem(last=False)[1])
        return job

    def get(self, job_id: str) -> Job | None:
        """A job that can be asked about."""
        job = self._kept.get(job_id)
        return None if job is None or "job_lost" in job.strikes else job

    def all(self, stage: str) -> list[Job]:
        with self._lock:
            jobs = [job for job in self._kept.values() if "job_lost" not in job.strikes]
        return [job for job in jobs if job.stage(job.strikes) == stage]

    def interrupt(self, job: Job) -> None:
        with self._lock:
            self._kept[job.id] = replace(job, is_interrupted=True)

    def drop(self, job: Job) -> None:
        """Say no more about a job. What files it made are there."""
        with self._lock:
            self._kept.pop(job.id, None)

    def file(self, place: tuple[str, str, str]) -> tuple[Job, int] | None:
        """The job that made the file at `_place`, and which of its pictures it is."""
        return self._files.get(place)

    def _name(self, node: dict[str, Any], work: Work) -> list[dict[str, str]]:
        kind = "output" if node["class_type"] == "SaveImage" else "temp"
        prefix = node["inputs"].get("filename_prefix", "ComfyUI_temp")
        subfolder, _, stem = prefix.rpartition("/")
        return [
            {
                "filename": f"{stem}_{next(self._file_numbers):05}_.png",
                "subfolder": subfolder,
                "type": kind,
            }
            for _ in range(work.count)
        ]

    def _forget(self, job: Job) -> None:
        self._graphs.discard(json.dumps(job.graph, sort_keys=True))
        for files in job.files.values():
            for file in files:
                del self._files[_place(file)]


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("comfyui", __name__)
    jobs = Jobs()

    def route(method: str, path: str) -> Callable[[View], View]:
        """Every path is served below /api too."""

        def register(view: View) -> View:
            bp.add_url_rule(path, view.__name__, view, methods=[method])
            bp.add_url_rule(f"/api{path}", view.__name__, view, methods=[method])
            return view

        return register

    @bp.before_request
    def refuse_foreign_pages() -> Response | None:
        origin = request.headers.get("Origin")
        is_foreign = origin is not None and urlsplit(origin).netloc != request.host
        return Response(status=403) if is_foreign else None

    @route("POST", "/prompt")
    def submit() -> Response:
        desk.enter("submit")
        body = json_object(request.get_json(silent=True)) or {}
        graph, job_id = json_object(body.get("prompt")), body.get("prompt_id", str(uuid.uuid4()))
        if graph is None:
            return _rejected("no_prompt", "No prompt provided")
        if problem := _id_complaint(job_id) or _complaint(graph):
            return problem
        work = understand(graph)
        if work is None:
            text = "The sandbox draws nothing but what a KSampler makes of an EmptyLatentImage."
            return _rejected("invalid_prompt", text)
        strikes = desk.strike("submit", work.text)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        job = jobs.take(job_id, graph, work, desk.seconds(TYPICAL_SECONDS), strikes)
        if job is None:
            return _error(409, "prompt_id already exists")
        if job.files:
            desk.bill(prompt=work.text, model=work.model, job_id=job.id, count=work.count)
        accepted = {"prompt_id": job.id, "number": job.number, "node_errors": {}}
        return desk.deliver(strikes, lambda: jsonify(accepted))

    @route("GET", "/prompt")
    def count_jobs() -> Response:
        remaining = len(jobs.all("pending") + jobs.all("running"))
        return jsonify(exec_info={"queue_remaining": remaining})

    @route("GET", "/history/<job_id>")
    def show_history(job_id: str) -> Response:
        desk.enter("poll")
        job = jobs.get(job_id)
        strikes = desk.strike("poll", job.work.text if job else "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        if job is None or "job_lost" in strikes:
            return desk.deliver(strikes, lambda: jsonify({}))
        return desk.deliver(strikes, lambda: jsonify(_history(job, strikes)))

    @route("POST", "/history")
    def clean_history() -> Response:
        for job in _chosen(jobs.all("over")):
            jobs.drop(job)
        return Response()

    @route("GET", "/queue")
    def show_queue() -> Response:
        desk.enter("poll")
        strikes = desk.strike("poll", "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        # First those that wait: one that is about to run has to be in either.
        pending, running = jobs.all("pending"), jobs.all("running")
        queue = {
            "queue_running": [job.entry for job in running],
            "queue_pending": [job.entry for job in pending],
        }
        return desk.deliver(strikes, lambda: jsonify(queue))

    @route("POST", "/queue")
    def clean_queue() -> Response:
        for job in _chosen(jobs.all("pending")):
            jobs.drop(job)
        return Response()

    @route("POST", "/interrupt")
    def interrupt() -> Response:
        wanted = (json_object(request.get_json(silent=True)) or {}).get("prompt_id")
        for job in jobs.all("running"):
            if wanted in (None, job.id):
                jobs.interrupt(job)
        return Response()

    @bp.get("/api/jobs/<job_id>")
    def show_job(job_id: str) -> Response:
        desk.enter("poll")
        job = jobs.get(job_id)
        strikes = desk.strike("poll", job.work.text if job else "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        if job is None or "job_lost" in strikes:
            return desk.deliver(strikes, lambda: _error(404, "Job not found"))
        return desk.deliver(strikes, lambda: jsonify(_job(job, strikes)))

    @bp.post("/api/jobs/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        job = jobs.get(job_id)
        stage = job.stage(job.strikes) if job else "over"
        if job and stage == "pending":
            jobs.drop(job)
        elif job and stage == "running":
            jobs.interrupt(job)
        return jsonify(cancelled=stage != "over")

    @route("GET", "/system_stats")
    def show_system() -> Response:
        return jsonify(system={"comfyui_version": "sandbox"}, devices=[])

    @route("GET", "/view")
    def view() -> Response:
        desk.enter("download")
        name, subfolder = request.args.get("filename", ""), request.args.get("subfolder", "")
        if name.startswith("/") or ".." in name:
            return Response(status=400)
        if subfolder.startswith("/") or ".." in subfolder:
            return Response(status=403)
        found = jobs.file((name, subfolder, request.args.get("type", "output")))
        if found is None or found[0].stage(found[0].strikes) != "over":
            return Response(status=404)
        job, number = found
        strikes = desk.strike("download", job.work.text)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        return desk.deliver(strikes, lambda: _file(desk, job, number, job.strikes | strikes))

    return bp


def outputs(graph: Graph) -> list[str]:
    """The ids of the nodes that end a graph."""
    return [node_id for node_id, node in graph.items() if NODES[node["class_type"]].is_output]


def understand(graph: Graph) -> Work | None:
    """What a graph without errors draws, by its first output; None when that is beyond us."""

    def source(node: dict[str, Any], name: str) -> dict[str, Any]:
        return dict(graph[node["inputs"][name][0]])

    sampler = source(source(graph[outputs(graph)[0]], "images"), "samples")
    if sampler["class_type"] != "KSampler":
        return None
    latent = source(sampler, "latent_image")
    if latent["class_type"] != "EmptyLatentImage":
        return None
    return Work(
        text=source(sampler, "positive")["inputs"]["text"],
        model=source(sampler, "model")["inputs"]["ckpt_name"],
        width=latent["inputs"]["width"],
        height=latent["inputs"]["height"],
        seed=sampler["inputs"]["seed"],
        count=latent["inputs"]["batch_size"],
    )


def _id_complaint(job_id: Any) -> Response | None:
    if isinstance(job_id, str) and re.fullmatch(_UUID, job_id):
        return None
    return _rejected("invalid_prompt_id", "prompt_id must be a UUID in lower case")


def _complaint(graph: Graph) -> Response | None:
    """The refusal of a graph that cannot run."""
    for node_id, node in graph.items():
        kind = node.get("class_type") if isinstance(node, dict) else None
        if kind not in NODES or not isinstance(node.get("inputs"), dict):
            text = f"Cannot execute because node {kind} does not exist."
            return _rejected("invalid_prompt", text, f"Node ID '#{node_id}'")
    if not outputs(graph):
        return _rejected("prompt_no_outputs", "Prompt has no outputs")
    wrong = {node_id: list(_problems(graph, node)) for node_id, node in graph.items()}
    if not any(wrong.values()):
        return None
    errors = {
        node_id: {
            "errors": problems,
            "dependent_outputs": outputs(graph),
            "class_type": graph[node_id]["class_type"],
        }
        for node_id, problems in wrong.items()
        if problems
    }
    text = "Prompt outputs failed validation"
    return _rejected("prompt_outputs_failed_validation", text, nodes=errors)


def _problems(graph: Graph, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, wanted in NODES[node["class_type"]].inputs.items():
        given = node["inputs"].get(name)
        match wanted:
            case _ if given is None:
                yield _problem("required_input_missing", "Required input is missing", name)
            case [*words]:
                if given not in words:
                    text = f"{name}: {given!r} not in {words}"
                    yield _problem("value_not_in_list", "Value not in list", text)
            case Number(kind, low, high):
                if not isinstance(given, int | float) or (kind is int and given != int(given)):
                    text = f"{name}, {given!r}"
                    yield _problem("invalid_input_type", "Failed to convert an input value", text)
                elif given < low:
                    text = f"Value {given} smaller than min of {low}"
                    yield _problem("value_smaller_than_min", text, name)
                elif given > high:
                    text = f"Value {given} bigger than max of {high}"
                    yield _problem("value_bigger_than_max", text, name)
            case "STRING":
                if not isinstance(given, str):
                    text = f"{name}, {given!r}"
                    yield _problem("invalid_input_type", "Failed to convert an input value", text)
            case _:
                yield from _link_problems(graph, name, given, str(wanted))


def _link_problems(graph: Graph, name: str, given: Any, wanted: str) -> Iterator[dict[str, Any]]:
    match given:
        case [str(node_id), int(output)] if node_id in graph:
            returns = NODES[graph[node_id]["class_type"]].returns
            if returns[output : output + 1] != (wanted,):
                text = f"{name}, received_type({returns}) mismatch input_type({wanted})"
                yield _problem("return_type_mismatch", "Return type mismatch between nodes", text)
        case _:
            text = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            yield _problem("bad_linked_input", text, name)


def _problem(kind: str, message: str, details: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def _history(job: Job, strikes: Strikes) -> dict[str, Any]:
    """What the server tells of a job: nothing before it is over."""
    strikes = job.strikes | strikes
    if job.stage(strikes) != "over":
        return {}
    about = {"prompt_id": job.id, "timestamp": time.time_ns() // 1_000_000}
    word, ending = _ending(job, strikes)
    return {
        job.id: {
            "prompt": job.entry,
            "outputs": _outputs(job, strikes) if word == "success" else {},
            "status": {
                "status_str": word,
                "completed": word == "success",
                "messages": [["execution_start", about], [ending[0], about | ending[1]]],
            },
            "meta": {},
        }
    }


def _ending(job: Job, strikes: Strikes) -> tuple[str, tuple[str, dict[str, Any]]]:
    """The status of a job that is over, and its last message."""
    if job.is_interrupted:
        return "error", ("execution_interrupted", {"executed": []})
    if "failed" in strikes:
        return "error", ("execution_error", _trouble(job))
    if "unknown_status" in strikes:
        return "preempted", ("execution_preempted", {})
    return "success", ("execution_success", {})


def _trouble(job: Job) -> dict[str, Any]:
    sampler = next(key for key, node in job.graph.items() if node["class_type"] == "KSampler")
    return {
        "node_id": sampler,
        "node_type": "KSampler",
        "exception_type": "torch.OutOfMemoryError",
        "exception_message": "Allocation on device 0 would exceed allowed memory.\n",
        "traceback": ['  File "/opt/ComfyUI/execution.py", line 1, in execute\n'],
        "executed": [],
        "current_inputs": {},
        "current_outputs": [],
    }


def _outputs(job: Job, strikes: Strikes) -> dict[str, Any]:
    if "no_image" in strikes:
        return {}
    return {node_id: {"images": files} for node_id, files in job.files.items()}


def _job(job: Job, strikes: Strikes) -> dict[str, Any]:
    """What the younger way to ask about a job says."""
    strikes = job.strikes | strikes
    stage = job.stage(strikes)
    told: dict[str, Any] = {"id": job.id, "priority": job.number, "workflow_id": None}
    if stage != "over":
        return told | {"status": {"pending": "pending", "running": "in_progress"}[stage]}
    word, _ = _ending(job, strikes)
    if word != "success":
        failed = "cancelled" if job.is_interrupted else "failed"
        error = _trouble(job) if "failed" in strikes else None
        return told | {"status": failed, "execution_error": error}
    made = _outputs(job, strikes)
    count = sum(len(output["images"]) for output in made.values())
    return told | {"status": "completed", "outputs": made, "outputs_count": count}


def _file(desk: Desk, job: Job, number: int, strikes: Strikes) -> Response:
    if "expired_url" in strikes:
        return Response(status=404)
    if "redirect_image" in strikes:
        return Response(status=302, headers={"Location": f"{FOREIGN}/latest/meta-data/"})
    work = job.work
    picture = desk.painter.picture(
        work.text,
        width=work.width // 8 * 8,
        height=work.height // 8 * 8,
        seed=work.seed + number,
        output_format="png",
        plain=desk.faults.plain,
        flaws=strikes,
    )
    return Response(picture.body, mimetype=picture.mime_type)


def _chosen(jobs: list[Job]) -> list[Job]:
    """Those of the jobs that the request is about."""
    body = json_object(request.get_json(silent=True)) or {}
    wanted = body.get("delete") or []
    return [job for job in jobs if body.get("clear") is True or job.id in wanted]


def _place(file: dict[str, str]) -> tuple[str, str, str]:
    return file["filename"], file["subfolder"], file["type"]


def _refusal(strikes: Strikes) -> Response | None:
    """What a proxy says in the server's stead, or the server when it is in trouble."""
    for name, (status, text) in _REFUSALS.items():
        if name in strikes:
            response = Response(text, status, mimetype="text/plain")
            wait = strikes[name].retry_after
            if name == "rate_limited" and wait is not None:
                response.headers["Retry-After"] = str(wait)
            return response
    return None


def _rejected(
    kind: str, message: str, details: str = "", nodes: dict[str, Any] | None = None
) -> Response:
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    response = jsonify(error=error, node_errors=nodes or {})
    response.status_code = 400
    return response


def _error(status: int, text: str) -> Response:
    response = jsonify(error=text)
    response.status_code = status
    return response
