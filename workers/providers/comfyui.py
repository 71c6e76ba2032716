"""ComfyUI: runs a workflow under an id of our choice, and keeps the pictures in files."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from common.errors import (
    BadAnswer,
    ConfigurationError,
    JobFailed,
    JobLost,
    ModelNotServed,
    ProviderError,
    Refused,
    Unavailable,
)
from common.transport import Answer
from workers.providers.base import Job, Order, Outcome, Picture, Pictures, Provider, Stopped
from workers.providers.http import Http

__all__ = ["ComfyUI"]

_IDS = uuid.UUID("9f3a3c0a-55c7-4f5c-8f0e-6a0e6c3b7d21")  # of jobs: a name space of our own
_SETTING = "COMFYUI_WORKFLOW"
_PLACEHOLDER = re.compile(r"%(prompt|negative_prompt|seed|width|height|count|id)%")
_NEEDED = ("prompt", "seed", "count")  # what the model promises, and no workflow does by itself

# The queue is asked only now and then: it holds the whole graph of everybody's every job.
_POLLS_PER_LOOK = 10
_NOT_FOUND_LIMIT = 3  # looks into the queue in a row


class ComfyUI(Provider):
    """`POST {base}/prompt`, `GET {base}/history/{id}` until it is there, then `GET {base}/view`.

    Three generations of servers are about. The newest refuse an id that they have; those before
    would run it once more, so it is looked for and not sent again; the oldest have ids of their
    own. Nobody is charged: the machine is the operator's.
    """

    name = "comfyui"
    auth = ("Authorization", "Bearer ")  # it asks for no key, and no setting holds one
    pictures_per_call = 4
    in_doubt = "lookup"
    cancels = True

    def __init__(self, api: Http, file: str = "") -> None:
        """`file`: path of the workflow to run, else that which ships with the adapter.

        Raises ConfigurationError for one that is no workflow, or lacks a place to fill in.
        """
        super().__init__(api)
        self._workflow = _workflow(file)

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        if order.route.model != "default":
            raise ModelNotServed(f"comfyui has no workflow {order.route.model}, only default.")
        job = _job(order)
        width, height = order.request.pixels
        values = {
            "prompt": order.request.prompt,
            "negative_prompt": order.request.negative_prompt or "",
            "width": width,
            "height": height,
            "id": job.id,
            **job.state,
        }
        body = {"prompt": _filled(self._workflow, values), "prompt_id": job.id}
        answer = self._api.post("/prompt", body, deadline=time.monotonic() + timeout)
        if answer.status == 409:
            return job  # the server has it already: an earlier sending arrived
        if not answer.ok:
            raise self._refusal(answer)
        match answer.json():
            case {"prompt_id": str(given)} if 0 < len(given) <= 200:
                return replace(job, id=given)
        raise BadAnswer("comfyui answered without the id of a job.")

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        match self._history(job, deadline):
            case None:
                return self._waiting(job, deadline)
            case {"status": {"status_str": "error"} as status}:
                raise self._failure(status)
            case {"status": {"status_str": str(word)}} if word != "success":
                return job  # a state nobody has told us of
            case entry:
                return Pictures(self._pictures(job, entry.get("outputs"), deadline), job.usage)

    def lookup(self, order: Order, *, timeout: float) -> Job | None:
        deadline = time.monotonic() + timeout
        job = _job(order)
        # In this order: a job goes from the queue into the history, and is never in neither.
        running, pending = self._queue(deadline)
        if job.id in (*running, *pending) or self._history(job, deadline) is not None:
            return job
        return None

    def cancel(self, job: Job, *, timeout: float) -> Stopped | None:
        deadline = time.monotonic() + timeout
        running, pending = self._queue(deadline)
        if job.id in pending:
            answer = self._api.post("/queue", {"delete": [job.id]}, deadline=deadline)
        elif job.id in running:
            # Servers from before 2025-10 do not look at the id and end what runs, which is ours.
            answer = self._api.post("/interrupt", {"prompt_id": job.id}, deadline=deadline)
        else:
            return None
        if not answer.ok:
            raise self._api.error(answer)
        return "no"

    def _history(self, job: Job, deadline: float) -> dict[str, Any] | None:
        """What the server says of a job that is over; None of any other."""
        path = f"/history/{quote(job.id, safe='')}"
        # Graphs of some nodes hold pictures in base64.
        answer = self._api.get(path, deadline=deadline, pictures=1)
        entry = answer.json().get(job.id) if answer.ok else None
        return entry if isinstance(entry, dict) else None

    def _queue(self, deadline: float) -> tuple[list[Any], list[Any]]:
        """The ids of the jobs that run, and of those that wait."""
        match self._api.get("/queue", deadline=deadline, pictures=1).json():
            case {"queue_running": [*running], "queue_pending": [*pending]}:
                return _ids(running), _ids(pending)
        raise Unavailable("comfyui did not say what is in its queue.")

    def _waiting(self, job: Job, deadline: float) -> Job:
        """A job without a history: queued, running, or lost when the server was restarted."""
        unseen = job.state.get("unseen", 0) + 1
        if unseen >= _POLLS_PER_LOOK:
            running, pending = self._queue(deadline)
            if job.id in (*running, *pending):
                unseen = 0
            elif unseen >= _POLLS_PER_LOOK + _NOT_FOUND_LIMIT:
                raise JobLost("comfyui does not know the job any more.", billed="no")
        return replace(job, state=job.state | {"unseen": unseen})

    def _pictures(self, job: Job, outputs: Any, deadline: float) -> tuple[Picture, ...]:
        files = _files(outputs)
        # Previews count only where a workflow ends in nothing else.
        kept = [file for file in files if file.get("type") != "temp"] or files
        if not kept:
            text = "comfyui calls the job a success, but names no picture."
            raise BadAnswer(text, billed="no")
        return tuple(
            Picture(
                self._api.download(
                    self._api.absolute(f"view?{urlencode(file)}"), deadline=deadline
                ),
                seed=job.state.get("seed"),
            )
            for file in kept[: job.state.get("count", 1)]
        )

    def _refusal(self, answer: Answer) -> ProviderError:
        match answer.json():
            case {"node_errors": {**nodes}} if answer.status == 400 and nodes:
                said = "; ".join(_complaint(node) for node in nodes.values())
                return Refused(self._api.scrub(f"comfyui answered 400: {said}"))
        return self._api.error(answer)

    def _failure(self, status: dict[str, Any]) -> JobFailed:
        said, messages = "no reason given", status.get("messages")
        for message in messages if isinstance(messages, list) else ():
            match message:
                case ["execution_interrupted", _]:
                    return JobFailed("comfyui says that the job was cancelled.", billed="no")
                case ["execution_error", {"node_type": node, "exception_message": text}]:
                    said = f"{node}: {text}"
        text = self._api.scrub(f"comfyui could not carry out the job: {said}")
        return JobFailed(text, billed="no")


def _workflow(file: str) -> dict[str, Any]:
    """A workflow in API format: nodes by their ids.

    Raises ConfigurationError, naming the setting, for a file that is none.
    """
    if not file:
        shipped = resources.files("workers.providers").joinpath("comfyui_workflow.json")
        return dict(orjson.loads(shipped.read_bytes()))
    try:
        text = Path(file).read_bytes()
        workflow = orjson.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{_SETTING}: {file}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"{_SETTING}: {file} is not JSON: {error}") from error
    if not (isinstance(workflow, dict) and workflow and all(map(_is_node, workflow.values()))):
        raise ConfigurationError(
            f"{_SETTING}: {file} is no workflow in API format; ComfyUI exports it as such."
        )
    if missing := [name for name in _NEEDED if f"%{name}%".encode() not in text]:
        raise ConfigurationError(f"{_SETTING}: {file} has no place for %{missing[0]}%.")
    return workflow


def _is_node(node: object) -> bool:
    match node:
        case {"class_type": str(), "inputs": {}}:
            return True
    return False


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    """A part of a workflow with its placeholders replaced; one that stands alone keeps its type."""
    match part:
        case dict():
            return {name: _filled(value, values) for name, value in part.items()}
        case list():
            return [_filled(value, values) for value in part]
        case str():
            if alone := _PLACEHOLDER.fullmatch(part):
                return values[alone[1]]
            return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), part)
    return part


def _job(order: Order) -> Job:
    """The job of an order as we name it: the same for every sending of the same call."""
    job_id = uuid.uuid5(_IDS, order.key) if order.key else uuid.uuid4()
    asked = order.request.seed
    seed = job_id.int % 2**32 if asked is None else asked + order.first
    state = {"count": order.count, "seed": seed}
    return Job(str(job_id), state, usage={"request_id": str(job_id)})


def _ids(entries: list[Any]) -> list[Any]:
    """Of `[number, id, graph, …]`."""
    return [entry[1] for entry in entries if isinstance(entry, list) and len(entry) > 1]


def _files(outputs: Any) -> list[dict[str, str]]:
    """The pictures in the outputs of all nodes."""
    found = []
    for output in outputs.values() if isinstance(outputs, dict) else ():
        match output:
            case {"images": [*images]}:
                found += [_file(image) for image in images if isinstance(image, dict)]
    return [file for file in found if file.get("filename")]


def _file(image: dict[str, Any]) -> dict[str, str]:
    named = ("filename", "subfolder", "type")
    return {name: image[name] for name in named if isinstance(image.get(name), str)}


def _complaint(node: Any) -> str:
    """What a node says against its inputs, without the lists of files that it has instead."""
    match node:
        case {"class_type": str(kind), "errors": [*errors]}:
            said = [
                f"{error.get('message')} ({str(error.get('details')).partition(' not in ')[0]})"
                for error in errors
                if isinstance(error, dict)
            ]
            return f"{kind}: {', '.join(said)}"
    return "no reason given"
