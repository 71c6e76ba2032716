"""A midjourney-proxy: takes a prompt, is asked about the task, and shows four pictures in one.

Two lines of the proxy are in use. The base URL is novicezk's; with `/mj-fast` behind it, which is
how the other line is asked for quick work, it is trueai-org's.
"""

import itertools
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for

from ops.sandbox.dialects.base import FOREIGN, Desk, json_object
from ops.sandbox.faults import Strikes

TYPICAL_SECONDS = 40.0
URL_SECONDS = 24 * 3600.0
JOBS_KEPT = 100_000
PIXELS = 1024 * 1024  # of each of the four pictures
LISTED = 100  # tasks, the newest ones, by trueai-org's line; the other one lists all it has

NOT_START, SUBMITTED, IN_PROGRESS = "NOT_START", "SUBMITTED", "IN_PROGRESS"

PARAMETERS = {
    "ar": r"[1-9]\d{0,3}:[1-9]\d{0,3}",
    "v": r"7|6\.1|6|5\.2|5\.1|5",
    "seed": r"\d{1,10}",
    "no": r".+",
    "q": r"\.25|\.5|0\.5|1|2|4",
    "style": r"raw",
}

_COUNTER = itertools.count()


@dataclass
class Job:
    """A task. Its status follows from the time alone, unless somebody cancels it."""

    id: str
    is_trueai: bool
    prompt: str  # as it came
    text: str  # without its parameters
    state: str | None
    seed: int
    size: tuple[int, int]  # of one of the four pictures
    complaint: str  # about the parameters
    begun: float
    ready: float
    begun_at: int  # Unix time in milliseconds
    strikes: Strikes = field(default_factory=dict)
    is_cancelled: bool = False
    signature: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def is_running(self) -> bool:
        is_due = time.monotonic() >= self.ready and "never_ready" not in self.strikes
        return not (is_due or self.is_cancelled)

    @property
    def share(self) -> float:
        """How much of the work is done, 0 to below 1."""
        return min(0.95, (time.monotonic() - self.begun) / max(self.ready - self.begun, 1e-9))


class Jobs:
    """The tasks of this process, the oldest forgotten beyond JOBS_KEPT."""

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

    def all(self) -> list[Job]:
        with self._lock:
            return list(self._jobs.values())

    def running(self) -> int:
        return sum(job.is_running for job in self.all())


def make_blueprint(desk: Desk) -> Blueprint:
    """Serve the dialect; the base URL clients need is this blueprint's prefix."""
    bp = Blueprint("midjourney", __name__)
    jobs = Jobs()

    @bp.post("/mj/submit/imagine", defaults={"is_trueai": False})
    @bp.post("/mj-fast/mj/submit/imagine", defaults={"is_trueai": True})
    def imagine(is_trueai: bool) -> Response:
        desk.enter("submit")
        if refusal := _key_refusal(is_trueai):
            return refusal
        body = json_object(request.get_json(silent=True)) or {}
        prompt = body.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            return _result(4, "prompt不能为空")
        text, parameters = _parse(prompt)
        strikes = desk.strike("submit", text)
        if refusal := _refusal(strikes) or _turned_away(strikes, jobs, is_trueai):
            return desk.deliver(strikes, lambda: refusal)
        job = _make_job(desk, prompt, body.get("state"), strikes, is_trueai)
        if not job.complaint and "moderated" not in strikes:
            desk.bill(
                prompt=text,
                model=f"v{parameters.get('v', '')}",
                job_id=job.id,
                seed=job.seed if "seed" in parameters else None,
            )
        jobs.add(job)
        return desk.deliver(strikes, lambda: _accepted(job))

    @bp.get("/mj/task/<job_id>/fetch", defaults={"is_trueai": False})
    @bp.get("/mj-fast/mj/task/<job_id>/fetch", defaults={"is_trueai": True})
    def fetch(job_id: str, is_trueai: bool) -> Response:
        desk.enter("poll")
        if refusal := _key_refusal(is_trueai):
            return refusal
        job = jobs.get(job_id)
        strikes = desk.strike("poll", job.text if job else "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        if job is None or "job_lost" in job.strikes | strikes:
            return desk.deliver(strikes, lambda: Response(status=204 if is_trueai else 200))
        return desk.deliver(strikes, lambda: jsonify(_task(job, job.strikes | strikes)))

    @bp.get("/mj/task/list", defaults={"is_trueai": False})
    @bp.get("/mj-fast/mj/task/list", defaults={"is_trueai": True})
    def list_tasks(is_trueai: bool) -> Response:
        found = jobs.all()
        return show_list(found[::-1][:LISTED] if is_trueai else found, is_trueai)

    @bp.get("/mj/task/queue")
    def list_waiting() -> Response:
        waiting = [job for job in jobs.all() if _progress(job, job.strikes)[0] == NOT_START]
        return show_list(waiting, is_trueai=False)

    @bp.post("/mj/task/list-by-condition", defaults={"is_trueai": False})
    @bp.post("/mj-fast/mj/task/list-by-condition", defaults={"is_trueai": True})
    @bp.post("/mj-fast/mj/task/list-by-ids", defaults={"is_trueai": True})
    def list_some(is_trueai: bool) -> Response:
        body = json_object(request.get_json(silent=True)) or {}
        ids = body.get("ids") or []
        return show_list([job for job in jobs.all() if job.id in ids], is_trueai)

    def show_list(found: list[Job], is_trueai: bool) -> Response:
        desk.enter("poll")
        if refusal := _key_refusal(is_trueai):
            return refusal
        strikes = desk.strike("poll", "")
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        tasks = [_task(job, job.strikes) for job in found if "job_lost" not in job.strikes]
        return desk.deliver(strikes, lambda: jsonify(tasks))

    @bp.post("/mj-fast/mj/task/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        if refusal := _key_refusal(is_trueai=True):
            return refusal
        job = jobs.get(job_id)
        if job is not None and job.is_running:
            job.is_cancelled = True
        return Response()

    @bp.get("/mj-fast/mj/task/<job_id>/image-seed")
    def image_seed(job_id: str) -> Response:
        if refusal := _key_refusal(is_trueai=True):
            return refusal
        job = jobs.get(job_id)
        return _result(1, "成功", str(job.seed)) if job else _result(3, "任务不存在", status=404)

    @bp.get("/attachments/<job_id>/<name>")
    def download(job_id: str, name: str) -> Response:
        desk.enter("download")
        job = jobs.get(job_id)
        if job is None or request.args.get("hm") != job.signature:
            return _gone()
        strikes = desk.strike("download", job.text)
        if refusal := _refusal(strikes):
            return desk.deliver(strikes, lambda: refusal)
        return desk.deliver(strikes, lambda: _file(desk, job, name, job.strikes | strikes))

    return bp


def _make_job(desk: Desk, prompt: str, state: Any, strikes: Strikes, is_trueai: bool) -> Job:
    text, parameters = _parse(prompt)
    complaint = _complaint(parameters)
    now = time.monotonic()
    said = "" if complaint else parameters.get("seed", "")
    return Job(
        id=f"{time.time_ns() // 1_000_000}{next(_COUNTER) % 1000:03}",
        is_trueai=is_trueai,
        prompt=prompt,
        text=text,
        state=state if isinstance(state, str) else None,
        seed=int(said) if said else secrets.randbelow(2**32),
        size=(1, 1) if complaint else _size(parameters.get("ar", "1:1")),
        complaint=complaint,
        begun=now,
        ready=now + desk.seconds(TYPICAL_SECONDS / 20 if complaint else TYPICAL_SECONDS),
        begun_at=time.time_ns() // 1_000_000,
        strikes=strikes,
    )


def _parse(prompt: str) -> tuple[str, dict[str, str]]:
    """The prompt without its parameters, and these by name."""
    text, *written = re.split(r"(?:^|\s)--(?=\w)", prompt)
    parts = (part.strip().partition(" ") for part in written)
    return text.strip(), {name: value.strip() for name, _, value in parts}


def _complaint(parameters: dict[str, str]) -> str:
    for name, value in parameters.items():
        if name not in PARAMETERS:
            return f"[Invalid parameter] Unrecognized parameter(s): `--{name}`"
        if not re.fullmatch(PARAMETERS[name], value):
            return f"[Invalid parameter] Invalid value for --{name}: `{value}`"
    if int(parameters.get("seed", 0)) >= 2**32:
        return "[Invalid parameter] `seed` must be between 0 and 4294967295"
    return ""


def _size(ratio: str) -> tuple[int, int]:
    across, down = (int(part) for part in ratio.split(":"))
    height = (PIXELS * down / across) ** 0.5
    return round(height * across / down / 32) * 32 or 32, round(height / 32) * 32 or 32


def _accepted(job: Job) -> Response:
    properties: dict[str, Any] = {"discordInstanceId": "1118138338562560102"}
    if "queued" not in job.strikes:
        return _result(1, "提交成功", job.id, properties)
    properties["numberOfQueues"] = 1
    return _result(22, "排队中,前面还有1个任务", job.id, properties)


def _task(job: Job, strikes: Strikes) -> dict[str, Any]:
    status, progress, reason = _progress(job, strikes)
    is_over = status in ("SUCCESS", "FAILURE", "CANCEL")
    image = None
    if status == "SUCCESS" and "no_image" not in strikes:
        image = _url(job, "grid.png", strikes)
    elif status == IN_PROGRESS:
        image = _url(job, "preview.webp", strikes)
    finished = job.begun_at + int((job.ready - job.begun) * 1000)
    task: dict[str, Any] = {
        "id": job.id,
        "action": "IMAGINE",
        "status": status,
        "prompt": job.prompt,
        "promptEn": job.prompt,
        "description": f"/imagine {job.prompt}",
        "state": job.state,
        "submitTime": job.begun_at,
        "startTime": None if status == NOT_START else job.begun_at,
        "finishTime": finished if is_over else None,
        "progress": progress,
        "imageUrl": image,
        "failReason": reason,
        "properties": {"finalPrompt": job.prompt} if status == "SUCCESS" else {},
    }
    if not job.is_trueai:
        return task
    is_done = status == "SUCCESS"
    singles = [{"url": _url(job, f"0_{i}.png", strikes), "thumbnail": None} for i in range(4)]
    return task | {
        "buttons": _buttons(job) if is_done else [],
        "imageUrls": singles if is_done and image else [],
        "mode": "FAST",
        "botType": "MID_JOURNEY",
        "parentId": None,
        "seed": str(job.seed) if is_done else None,
    }


def _progress(job: Job, strikes: Strikes) -> tuple[str, str, str | None]:
    """Status, progress and the reason of a failure."""
    percent = f"{int(job.share * 100)}%"
    if job.is_cancelled:
        return "CANCEL", percent, "取消"
    if "modal" in strikes:
        return "MODAL", "", None
    if job.is_running or "never_ready" in strikes:
        if job.share < 0.1:
            return (NOT_START, "", None) if "queued" in strikes else (SUBMITTED, "0%", None)
        return IN_PROGRESS, percent, None
    if "unknown_status" in strikes:
        return "PREEMPTED", "(paused)", None
    if job.complaint:
        return "FAILURE", "", job.complaint
    if "moderated" in strikes or "moderated_output" in strikes:
        return (
            "FAILURE",
            "",
            "[Banned prompt detected] Sorry! It goes against our community policy.",
        )
    if "failed" in strikes:
        return "FAILURE", "", "任务超时"
    return "SUCCESS", "100%", None


def _buttons(job: Job) -> list[dict[str, Any]]:
    kinds = (("U", "upsample"), ("V", "variation"))
    return [
        {
            "customId": f"MJ::JOB::{kind}::{number}::{job.signature}",
            "emoji": "",
            "label": f"{letter}{number}",
            "style": 2,
            "type": 2,
        }
        for letter, kind in kinds
        for number in range(1, 5)
    ]


def _url(job: Job, name: str, strikes: Strikes) -> str:
    host = FOREIGN if "foreign_image_url" in strikes else request.host_url.rstrip("/")
    return host + url_for(".download", job_id=job.id, name=name, hm=job.signature)


def _file(desk: Desk, job: Job, name: str, strikes: Strikes) -> Response:
    width, height = job.size
    is_grid, seed = True, job.seed
    if name == "preview.webp":
        width, height = max(1, width // 8), max(1, height // 8)
    elif job.is_running or "expired_url" in strikes or time.monotonic() > job.ready + URL_SECONDS:
        return _gone()
    elif "redirect_image" in strikes:
        return Response(status=302, headers={"Location": f"{FOREIGN}/latest/meta-data/"})
    elif single := re.fullmatch(r"0_([0-3])\.png", name):
        is_grid, seed = False, job.seed * 4 + int(single[1])
    elif name != "grid.png":
        return _gone()
    picture = desk.painter.picture(
        job.text,
        width=width * 2 if is_grid else width,
        height=height * 2 if is_grid else height,
        seed=seed,
        output_format=name.rpartition(".")[2],
        grid=is_grid,
        plain=desk.faults.plain,
        flaws=strikes,
    )
    return Response(picture.body, mimetype=picture.mime_type)


def _turned_away(strikes: Strikes, jobs: Jobs, is_trueai: bool) -> Response | None:
    if "no_account" in strikes:
        return _result(3, "无可用的账号实例")
    limit = strikes.get("active_limit")
    if "overloaded" in strikes or (limit is not None and jobs.running() >= limit.limit):
        # One line has a code for it, the other has nothing but the words.
        return _result(9, "提交失败,队列已满") if is_trueai else _result(23, "队列已满,请稍后尝试")
    if "moderated" in strikes and not is_trueai:
        words = {"promptEn": "x", "bannedWord": "moderated"}
        return _result(24, "可能包含敏感词", properties=words)
    return None


def _refusal(strikes: Strikes) -> Response | None:
    if "bad_key" in strikes:
        return Response(status=401)
    if "rate_limited" in strikes:
        wait = strikes["rate_limited"].retry_after
        return Response(status=429, headers={} if wait is None else {"Retry-After": str(wait)})
    if "server_error" in strikes:
        response = jsonify(status=500, error="Internal Server Error", path=request.path)
        response.status_code = 500
        return response
    return None


def _key_refusal(is_trueai: bool) -> Response | None:
    key = request.headers.get("Mj-Api-Secret", "")
    if is_trueai:
        key = key or request.headers.get("Authorization", "")
    if not key or "bad" in key or "invalid" in key:
        return Response(status=401)
    return None


def _gone() -> Response:
    return Response("This content is no longer available.", 404, mimetype="text/plain")


def _result(
    code: int,
    description: str,
    result: str | None = None,
    properties: dict[str, Any] | None = None,
    *,
    status: int = 200,
) -> Response:
    body = {"code": code, "description": description, "result": result, "properties": properties}
    response = jsonify(body)
    response.status_code = status
    return response
