"""What a user would write instead, in a page: Flask, `apply_async` and the Redis result backend.

No journal, no lease, no key, no check: a lost worker loses the task, or buys its picture again.
Beside it the views that answer with the same JSON always, at once or to a crowd in one moment: the
most that the server itself can do.
"""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path
from typing import Any

import requests
from celery import Celery
from celery.result import AsyncResult
from flask import Flask, jsonify, request

__all__ = ["app", "celery"]

_REDIS = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/1")
_PROVIDER = os.environ.get("BENCH_PROVIDER_URL", "")
_IMAGES = Path(os.environ.get("BENCH_IMAGES", "."))

celery = Celery("textbook", broker=_REDIS, backend=_REDIS)


@celery.task(name="textbook.generate")
def generate(body: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(
        f"{_PROVIDER}/images/generations",
        json=body,
        headers={"Authorization": "Bearer sk-textbook"},
        timeout=120,
    )
    answer.raise_for_status()
    image = answer.json()["data"][0]
    name = f"{generate.request.id}.png"
    (_IMAGES / name).write_bytes(base64.b64decode(image["b64_json"]))
    return {"url": f"/files/{name}", "revised_prompt": image["revised_prompt"]}


app = Flask("textbook")


@app.get("/constant")
def constant() -> Any:
    return jsonify({"id": "imgtask_0", "object": "image.generation.task", "status": "pending"})


class _Crowd:
    """Requests that are held until all of them are let go at once."""

    def __init__(self) -> None:
        self.number = 0
        self.released = threading.Event()


_crowds = [_Crowd()]  # the last one gathers


@app.get("/held")
def held() -> Any:
    crowd = _crowds[-1]
    crowd.number += 1
    crowd.released.wait(60)
    return jsonify({"id": "imgtask_0", "object": "image.generation.task", "status": "completed"})


@app.get("/crowd")
def crowd() -> Any:
    return jsonify(_crowds[-1].number)


@app.post("/release")
def release() -> Any:
    _crowds.append(_Crowd())
    _crowds.pop(0).released.set()
    return jsonify(None)


@app.post("/images")
def submit() -> Any:
    task = generate.apply_async(args=(request.get_json(),))
    return jsonify({"id": task.id, "status": "pending"}), 202


@app.get("/images/<task_id>")
def poll(task_id: str) -> Any:
    task: AsyncResult[Any] = AsyncResult(task_id, app=celery)
    return jsonify({"id": task_id, "status": task.state, "result": task.result})
