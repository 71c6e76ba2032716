"""Black Forest Labs' own ways (PROTOCOLS.md, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.errors import ContentRefused, JobFailed, ProviderError, RateLimited
from tests.contracts.conftest import Connect
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job

Serve = Callable[..., Scripted]

POLICY = "content_policy_violation"


@pytest.mark.parametrize(
    ("ending", "error", "said"),
    [
        (
            {"status": "Request Moderated", "details": {"Moderation Reasons": ["Sex", "Gore"]}},
            ContentRefused,
            "bfl refused the prompt: Sex, Gore",
        ),
        (
            {"status": "Content Moderated", "result": {"Moderation Reasons": ["Copyright"]}},
            ContentRefused,
            "bfl refused the picture: Copyright",
        ),
        ({"status": "Request Moderated"}, ContentRefused, "bfl refused the prompt."),
        (
            {"status": "Request Moderated", "details": {"Moderation Reasons": []}},
            ContentRefused,
            "bfl refused the prompt.",
        ),
        # As its webhook has it.
        (
            {"status": "Error", "error": POLICY, "message": "Not this."},
            ContentRefused,
            f"bfl refused it: {POLICY}: Not this.",
        ),
        (
            {"status": "Error", "details": {"error": POLICY, "message": "Not this."}},
            ContentRefused,
            f"bfl refused it: {POLICY}: Not this.",
        ),
        (
            {"status": "Error", "details": {"error": "oom", "message": "No memory."}},
            JobFailed,
            "bfl could not carry out the job: oom: No memory.",
        ),
        (
            {"status": "Failed", "result": "No memory."},
            JobFailed,
            "bfl could not carry out the job: No memory.",
        ),
        ({"status": "Error"}, JobFailed, "bfl could not carry out the job."),
    ],
)
def test_the_end_of_a_job_says_why(
    connect: Connect, serve: Serve, ending: dict[str, Any], error: type[ProviderError], said: str
) -> None:
    server = serve(Reply({"id": "job-1", "result": None, "details": None} | ending))

    with pytest.raises(ProviderError) as caught:
        connect("bfl", server.url).provider.poll(Job("job-1"), timeout=5)

    assert (type(caught.value), caught.value.message) == (error, said)


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({"retry_after": 9}, {}, 9),
        ({"retry_after": 0.5}, {}, 0.5),
        ({"retry_after": 9}, {"Retry-After": "3"}, 3),
        ({"retry_after": "soon"}, {}, 5),
        ({"retry_after": -1}, {}, 5),
        ({}, {}, 5),
    ],
)
def test_a_wait_may_be_told_in_the_body(
    connect: Connect,
    serve: Serve,
    body: dict[str, Any],
    headers: dict[str, str],
    seconds: float,
) -> None:
    server = serve(Reply({"error": "rate_limit_exceeded"} | body, 429, headers))

    with pytest.raises(RateLimited) as caught:
        connect("bfl", server.url).submit()

    assert caught.value.retry_after == seconds
