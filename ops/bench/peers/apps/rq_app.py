"""Flask and rq as its guide shows them."""

from __future__ import annotations

from typing import Any

import requests
from bought import HEADERS, PROVIDER, REDIS, keep
from flask import Flask, jsonify, request
from redis import Redis
from rq import Queue, get_current_job
from rq.job import Job

redis = Redis.from_url(REDIS)
queue = Queue(connection=redis)


def generate(body: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(PROVIDER, json=body, headers=HEADERS, timeout=120)
    answer.raise_for_status()
    return keep(get_current_job().id, answer.json())


app = Flask("peer")


@app.post("/images")
def submit() -> Any:
    job = queue.enqueue("rq_app.generate", request.get_json())
    return jsonify({"id": job.id, "status": "pending"}), 202


@app.get("/images/<task_id>")
def poll(task_id: str) -> Any:
    job = Job.fetch(task_id, connection=redis)
    status = job.get_status(refresh=False)
    if status != "finished":
        return jsonify({"id": task_id, "status": str(status.value)})
    return jsonify({"id": task_id, "status": "completed", "result": job.return_value()})
