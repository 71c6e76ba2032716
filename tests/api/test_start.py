"""Starting, stopping, and the `flask` command."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from common.outbox import WebhookSecrets
from tests.api.conftest import ROOT, Stack, environment, running
from tests.processes import free_port, until

GUNICORN = [
    sys.executable,
    "-m",
    "gunicorn",
    "--config",
    str(ROOT / "ops/gunicorn.conf.py"),
    "api.wsgi:app",
]


def run(command: list[str], folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def flask(stack: Stack, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    given = {"REDIS_URL": stack.valkey.url, "DATA_DIR": stack.data_dir} | settings
    command = [sys.executable, "-m", "flask", "--app", "api.wsgi", *arguments]
    return run(command, stack.log.parent, **given)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "REDIS_URL"),
        ({"REDIS_URL": "redis://localhost", "PORT": "none", "WORKERS": "0"}, "PORT"),
        ({"REDIS_URL": "http://localhost"}, "REDIS_URL"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_is_named(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    result = run(GUNICORN, tmp_path, **settings)

    assert result.returncode == 2
    assert said in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == (2 if len(settings) == 3 else 1)


def test_what_only_the_application_finds_wrong_stops_gunicorn_too(tmp_path: Path) -> None:
    settings = {"REDIS_URL": "redis://localhost", "STORAGE_URL": "file:///dev/null/images"}
    result = run(GUNICORN, tmp_path, PORT=free_port(), **settings)

    assert result.returncode == 3
    assert "STORAGE_URL" in result.stderr and "Traceback" not in result.stderr


def test_a_mistake_in_the_catalog_of_ones_own_stops_gunicorn_too(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[own]\nmax_n = 9\n")
    settings = {"REDIS_URL": "redis://localhost", "CATALOG_FILE": "models.toml"}
    result = run(GUNICORN, tmp_path, PORT=free_port(), **settings)

    assert result.returncode == 3
    assert "CATALOG_FILE: models.toml, model own: max_n: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [(GUNICORN, 3), ([sys.executable, "-m", "workers", "worker"], 2)],
    ids=["web", "worker"],
)
def test_a_redis_that_refuses_us_stops_the_start(
    tmp_path: Path, stack: Stack, command: list[str], status: int
) -> None:
    url = stack.valkey.url.replace("//", "//nobody:MARKED@")
    result = run(command, tmp_path, PORT=free_port(), REDIS_URL=url, PYTHONPATH=ROOT)

    assert result.returncode == status
    assert "REDIS_URL: " in result.stderr and "refuses user or password" in result.stderr
    assert "MARKED" not in result.stderr and "Traceback" not in result.stderr


def test_keys_are_made_listed_and_revoked(stack: Stack) -> None:
    def status(plain: str) -> int:
        headers = {"Authorization": f"Bearer {plain}"}
        return requests.get(f"{stack.base}/v1/tasks/x", headers=headers, timeout=10).status_code

    kept = flask(stack, "keys", "create", "the shop", "--expires-days", "30").stdout.strip()
    gone = flask(stack, "keys", "create", "the thief").stdout.strip()
    listed = flask(stack, "keys", "list").stdout
    ids = {line.split("  ")[-1]: line.split()[0] for line in listed.splitlines()}
    revoked = flask(stack, "keys", "revoke", ids["the thief"])

    assert (status(kept), status(gone)) == (404, 401)
    assert "valid until" in listed and "revoked" in revoked.stdout
    assert kept not in listed and gone not in listed


def test_an_operators_key_is_made_without_limits_and_listed_as_such(stack: Stack) -> None:
    made = flask(stack, "keys", "create", "night shift", "--admin", "--expires-days", "30")
    limited = flask(stack, "keys", "create", "x", "--admin", "--images-per-day", "5")

    key = stack.keys.find(made.stdout.strip())
    assert key is not None and key.admin and key.expires is not None
    assert "operator, valid until" in flask(stack, "keys", "list").stdout
    assert limited.returncode == 2
    assert "--expires-days alone goes with" in limited.stderr


def test_the_secret_of_webhooks_is_shown_and_replaced(stack: Stack) -> None:
    flask(stack, "keys", "create", "with webhooks")
    listed = flask(stack, "keys", "list").stdout.splitlines()
    (key_id,) = [line.split()[0] for line in listed if line.endswith("  with webhooks")]

    def secret(*options: str) -> tuple[str, str]:
        shown = flask(stack, "keys", "webhook-secret", key_id, *options)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout.strip(), shown.stderr

    first, _ = secret()
    again, alone = secret()
    second, both = secret("--rotate")
    third, ended = secret("--rotate", "--at-once")

    assert first == again
    assert len({first, second, third}) == 3
    assert all(one.startswith("whsec_") for one in (first, second, third))
    assert "24 hours" in both
    assert "24 hours" not in alone + ended
    assert WebhookSecrets(stack.redis).of(key_id) == (third,)
    unknown = flask(stack, "keys", "webhook-secret", "key_nothing")
    assert unknown.returncode == 1 and "key_nothing" in unknown.stderr
    assert flask(stack, "keys", "webhook-secret", key_id, "--at-once").returncode == 2


def test_the_key_command_says_what_is_wrong(stack: Stack) -> None:
    unknown = flask(stack, "keys", "revoke", "key_nothing")
    nobody = flask(stack, "keys", "list", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")

    assert unknown.returncode == 1 and "key_nothing" in unknown.stderr
    assert nobody.returncode == 1 and "REDIS_URL" in nobody.stderr
    unset = flask(stack, "keys", "list", REDIS_URL="")
    assert unset.returncode == 3 and unset.stderr.startswith("REDIS_URL: ")
    assert "Traceback" not in unknown.stderr + nobody.stderr


def test_keys_are_limited_and_shown(stack: Stack) -> None:
    models = "flux-*, dall-e-3,flux_pro"
    limits = ("--usd-per-month", "12.5", "--tasks-in-flight", "7", "--models", models)
    made = flask(stack, "keys", "create", "the club", *limits, "--requests-per-minute", "1")
    key_id = made.stderr.split()[0]
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    stack.post({"model": "flux-pro", "prompt": "x", "n": 2}, headers=headers)

    shown = flask(stack, "keys", "show", key_id).stdout
    changed = flask(
        stack, "keys", "limit", key_id, "--models", "none", "--images-per-day", "9"
    ).stdout
    listed = flask(stack, "keys", "list").stdout

    assert "flux_pro matches no model" in made.stderr
    assert "flux-*, dall-e-3, flux_pro" in shown
    assert "1, of 7" in shown and "0 left, of 1" in shown
    assert "0.0800 (estimated: 0.0800), of 12.5" in shown
    assert "flux-pro: 2 images, $0.0800" in shown
    expected = "requests/minute 1  in flight 7  images/day 9  $/month 12.5"
    assert expected in changed and "models" not in changed
    (line,) = [line for line in listed.splitlines() if line.startswith(key_id)]
    assert line.endswith(f"valid  $0.08 this month, 2 images today  {expected}  the club")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--requests-per-minute", "0"), "--requests-per-minute"),
        (("--tasks-in-flight", "many"), "--tasks-in-flight"),
        (("--images-per-day", "1.5"), "--images-per-day"),
        (("--usd-per-month", "-1"), "--usd-per-month"),
        (("--usd-per-month", "nan"), "--usd-per-month"),
        (("--models", "flux-*,[a-z]"), "--models"),
        (("--models", ""), "--models"),
        (("--expires-days", "0"), "--expires-days"),
        ((), "No limit was given"),
    ],
)
def test_a_wrong_limit_is_named_and_changes_nothing(
    stack: Stack, options: tuple[str, ...], said: str
) -> None:
    key, _ = stack.keys.create("unchanged")

    result = flask(stack, "keys", "limit", key.id, *options)

    assert result.returncode == 2
    assert said in result.stderr and "Traceback" not in result.stderr
    assert key in stack.keys.list()


def test_a_stop_answers_those_who_wait_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path, BFL_API_KEY="none", PUBLIC_URL="https://pictures.example/x/") as stack:
        done, task_id = stack.submit(), stack.submit()
        stack.complete(done)
        (image,) = stack.get(f"/v1/tasks/{done}").json()["data"]
        assert image["url"].startswith(f"https://pictures.example/x/files/{done}/0.png?")
        answers: list[requests.Response] = []
        waiter = threading.Thread(
            target=lambda: answers.append(stack.get(f"/v1/tasks/{task_id}?wait=60"))
        )
        waiter.start()
        until(lambda: stack.redis.pubsub_numsub("darkroom:ended")[0][1] == 1)
        stopped = time.monotonic()
        stack.process.terminate()
        waiter.join(20)
        stack.process.wait(20)

        assert answers[0].json()["status"] == "pending"
        assert stack.process.returncode == 0
        assert time.monotonic() - stopped < 10
        assert "Traceback" not in stack.log.read_text()
