"""`/metrics`: whom it answers, what it tells of requests, and that it needs no Redis for that."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import HttpMetrics
from tests.api.conftest import Stack, running
from tests.processes import until

TOKEN = "for-prometheus-alone"


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of an exposition by name and labels; it must be one that Prometheus can read."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(stack: Stack, name: str, **labels: str) -> float:
    answer = stack.get("/metrics")
    assert answer.status_code == 200, answer.text
    return samples(answer.text).get((name, frozenset(labels.items())), 0.0)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A front end of two processes with a token for its numbers."""
    folder = tmp_path_factory.mktemp("guarded")
    with running(folder, SANDBOX="on", METRICS_TOKEN=TOKEN, WEB_PROCESSES=2) as stack:
        yield stack


def test_any_front_end_tells_of_the_fleet(stack: Stack) -> None:
    before = value(stack, "darkroom_tasks_accepted_total", model="flux-pro")
    task_id = stack.submit()
    stack.complete(task_id)

    assert value(stack, "darkroom_tasks_accepted_total", model="flux-pro") == before + 1
    assert value(stack, "darkroom_redis_up") == 1
    answer = stack.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_scrape_is_one_round_trip(stack: Stack) -> None:
    stack.get("/metrics")
    before = stack.commands()

    stack.get("/metrics")

    after = stack.commands()
    inside = {name for name in after if name in ("hgetall", "zcard", "zcount", "scard")}
    sent = {name: after[name] - before.get(name, 0) for name in after}
    assert sent["fcall"] == 1
    assert inside  # they are counted as well, though nobody sent them
    assert {
        n for n, times in sent.items() if times and n in ("get", "set", "eval", "ping")
    } == set()


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/v1/tasks/none", {"route": "/v1/tasks/<task_id>", "status": "404"}),
        ("GET", "/no/such/thing", {"route": "", "status": "404"}),
        ("BREW", "/healthz", {"route": "", "status": "405"}),
        ("DELETE", "/healthz", {"route": "", "status": "405"}),
    ],
)
def test_requests_are_counted_by_the_template_of_their_path(
    stack: Stack, method: str, path: str, labels: dict[str, str]
) -> None:
    labels = labels | {"method": method if method in ("GET", "DELETE") else "other"}
    before = value(stack, "darkroom_http_requests_total", **labels)

    stack.call(method, path)

    assert value(stack, "darkroom_http_requests_total", **labels) == before + 1


def test_no_caller_can_make_new_labels(stack: Stack) -> None:
    stack.get("/metrics")
    names = {key for key in samples(stack.get("/metrics").text) if "http" in key[0]}
    for number in range(20):
        stack.call(f"VERB{number}", f"/v1/{number}")
        stack.get(f"/v1/tasks/imgtask_{number:032x}")
        stack.post({"model": f"model-{number}", "prompt": "a"})

    found = {key for key in samples(stack.get("/metrics").text) if "http" in key[0]}

    assert len(found - names) < 40
    assert "VERB" not in str(found)
    assert "model-1" not in stack.get("/metrics").text


def test_who_waits_is_counted_while_it_waits_and_no_longer(stack: Stack) -> None:
    route = "/v1/tasks/<task_id>"
    task_id = stack.submit()
    slow = value(stack, "darkroom_http_request_seconds_count", method="GET", route=route)

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(stack.get, f"/v1/tasks/{task_id}?wait=30")
        until(lambda: value(stack, "darkroom_http_waiters") == 1, "somebody waits")
        stack.complete(task_id)
        assert held.result(30).json()["status"] == "completed"

    assert value(stack, "darkroom_http_waiters") == 0
    # How long it was held says nothing of how quick we are.
    assert value(stack, "darkroom_http_request_seconds_count", method="GET", route=route) == slow


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_without_a_token_a_proxy_gets_nothing(stack: Stack, header: str) -> None:
    answer = stack.get("/metrics", headers={header: "127.0.0.1"})

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "metrics_not_allowed"
    assert "METRICS_TOKEN" in answer.json()["error"]["hint"]
    assert "darkroom_" not in answer.text


def test_without_a_token_another_machine_gets_nothing(tmp_path: Path) -> None:
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    outside = [address for address in addresses if not address.startswith("127.")]
    if not outside:
        pytest.skip("this machine has no address but its own")
    with running(tmp_path, SANDBOX="on", HOST="0.0.0.0") as stack:
        url = stack.base.replace("127.0.0.1", outside[0])

        assert stack.http.get(f"{url}/metrics", timeout=10).status_code == 403
        assert stack.http.get(f"{url}/healthz", timeout=10).status_code == 200
        assert stack.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"]
)
def test_with_a_token_nothing_else_opens(guarded: Stack, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.encode()}
    answer = guarded.get("/metrics", headers={"Authorization": None} | headers)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "darkroom_" not in answer.text


def test_an_api_key_is_no_token(guarded: Stack) -> None:
    assert guarded.get("/metrics").status_code == 401  # the session sends the key


def test_with_a_token_a_proxy_may_stand_between(guarded: Stack) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "203.0.113.9"}

    answer = guarded.get("/metrics", headers=headers)

    assert answer.status_code == 200
    assert TOKEN not in guarded.log.read_text()


def test_several_processes_count_together(guarded: Stack) -> None:
    def answered() -> float:
        answer = guarded.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        labels = {"method": "GET", "route": "/healthz", "status": "200"}
        key = ("darkroom_http_requests_total", frozenset(labels.items()))
        return samples(answer.text).get(key, 0.0)

    before = answered()
    pids = re.findall(r"Booting worker with pid: (\d+)", guarded.log.read_text())
    assert len(pids) == 2
    for pid in map(int, pids):
        os.kill(pid, signal.SIGSTOP)  # so that the other one answers
        try:
            for _ in range(3):
                with requests.Session() as session:  # a connection of its own
                    assert session.get(f"{guarded.base}/healthz", timeout=20).ok
        finally:
            os.kill(pid, signal.SIGCONT)

    assert answered() == before + 6


def test_without_redis_it_says_so_and_tells_of_its_requests(fragile: Stack) -> None:
    with fragile.valkey.frozen():
        started = time.monotonic()
        answer = fragile.get("/metrics")
        took = time.monotonic() - started

    assert answer.status_code == 200
    found = samples(answer.text)
    assert found["darkroom_redis_up", frozenset()] == 0
    assert not [name for name, _ in found if name.startswith("darkroom_tasks")]
    assert [name for name, _ in found if name.startswith("darkroom_http")]
    assert took < 3
    assert value(fragile, "darkroom_redis_up") == 1


def test_counting_a_request_costs_next_to_nothing() -> None:
    metrics = HttpMetrics()

    def count() -> float:
        started = time.process_time()
        for _ in range(2000):
            metrics.count("GET", "/v1/tasks/<task_id>", 200, 0.01, held=False)
        return (time.process_time() - started) / 2000

    count()
    assert min(count() for _ in range(5)) < 15e-6
