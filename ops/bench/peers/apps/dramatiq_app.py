"""Flask and dramatiq as their guides show them, with the results middleware to poll."""

from __future__ import annotations

from typing import Any

import dramatiq
import requests
from bought import HEADERS, IMPATIENT, PROVIDER, REDIS, keep
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage
from dramatiq.results import ResultMissing, Results
from dramatiq.results.backends import RedisBackend
from flask import Flask, jsonify, request

# dramatiq gives the messages of a worker that is gone back after a minute, and looks for such
# workers with one command of a thousand. A test that takes seconds has to be less patient.
_patience: dict[str, Any] = (
    {"heartbeat_timeout": 5_000, "maintenance_chance": 100_000} if IMPATIENT else {}
)
broker = RedisBroker(url=REDIS, **_patience)
results = RedisBackend(url=REDIS)
broker.add_middleware(Results(backend=results))
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def generate(body: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(PROVIDER, json=body, headers=HEADERS, timeout=120)
    answer.raise_for_status()
    return keep(CurrentMessage.get_current_message().message_id, answer.json())


app = Flask("peer")


@app.post("/images")
def submit() -> Any:
    message = generate.send(request.get_json())
    return jsonify({"id": message.message_id, "status": "pending"}), 202


@app.get("/images/<task_id>")
def poll(task_id: str) -> Any:
    message = generate.message().copy(message_id=task_id)
    try:
        result = message.get_result(backend=results, block=False)
    except ResultMissing:
        return jsonify({"id": task_id, "status": "pending"})
    return jsonify({"id": task_id, "status": "completed", "result": result})
