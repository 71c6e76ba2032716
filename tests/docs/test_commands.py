"""Every command of the documents, run as a reader would, in a checkout of their own."""

from __future__ import annotations

import shutil

import pytest

from tests.docs.conftest import Checkout
from tests.docs.documents import blocks, commands, read

DOCUMENTS = ("README.md", "ops/API.md", "ops/OPERATING.md", "ops/PROVIDERS.md", "ops/SECURITY.md")

NOT_RUN = {
    "git clone <this repository> darkroom": "the address differs from reader to reader",
    "cd darkroom": "the tests are there already",
    "ops/run": "serves until it is stopped; it is what all other commands here talk to",
    "WORKERS=2 ops/run": "serves until it is stopped; tests/ops/test_run.py starts it so",
    "ops/test": "would start this test again",
}

SERVE = ("-m workers worker",)  # commands that run until stopped; "ready." says that they do

# What a command has to say, by a part of it.
PROMISED = {
    "--prompt": "1024x1024 PNG",
    "-o snow.png": "snow-1.png\nsnow-2.png\nsummer.png\n",
    "?wait=30": '"status":"completed"',
    "Prefer: wait=60": "/files/imgtask_",
    "/v1/models": '"object":"list"',
    "recommended_for=image": '"preferred_rank":1',
    "/events": "event: done",
    "keys create": "sk-",
    "keys list": "the club",
    "keys limit": "$/month 40",
    "keys show": "tasks in flight",
    "keys webhook-secret": "whsec_",
    "--rotate": "whsec_",
    "keys revoke": "revoked",
    "tasks list": "imgtask_",
    "tasks show": "queue",
    "/v1/usage": '"object":"usage"',
    "/readyz": '"status":"ready"',
    "/metrics |": "darkroom_tasks_open",
    "/v1/admin/pause": '"paused":true',
    "/v1/admin/resume": '"paused":false',
    "Bearer sk-wrong": '"code":"invalid_api_key"',
    "ls -l data/api_key": "-rw-------",
    "${picture}x": '"code":"invalid_signature"',
    "169.254.169.254": "image_url leads to a private address",
    "10.0.0.1": "webhook_url leads to a private address",
    "203.0.113.7": '"code":"metrics_not_allowed"',
}

SHELL = [
    (document, block)
    for document in DOCUMENTS
    for block in blocks(read(document), "sh")
    if not set(commands(block)) <= set(NOT_RUN)
]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize(
    ("document", "block"), SHELL, ids=[f"{d}: {commands(b)[-1][:40]}" for d, b in SHELL]
)
def test_the_commands_do_what_is_said_of_them(
    checkout: Checkout, document: str, block: str
) -> None:
    if document == "ops/OPERATING.md":
        checkout = checkout.connected()

    status, said = checkout.run(block, not_run=NOT_RUN, serves=SERVE)

    assert status == 0, said
    promised = [promise for part, promise in PROMISED.items() if part in block]
    assert [promise for promise in promised if promise not in said] == [], said


def test_every_exception_and_every_promise_is_still_about_a_command() -> None:
    there = {command for d in DOCUMENTS for b in blocks(read(d), "sh") for command in commands(b)}

    assert set(NOT_RUN) <= there
    assert [part for part in PROMISED if not any(part in block for _, block in SHELL)] == []
