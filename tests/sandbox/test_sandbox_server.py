"""The sandbox as a process: its variables, its ledger, its patience."""

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SANDBOX_PORT", "70000"),
        ("SANDBOX_SPEED", "nan"),
        ("SANDBOX_LEDGER", "/no/such/folder/ledger"),
    ],
)
def test_a_wrong_variable_is_named_and_stops_the_start(refused, variable, value):
    code, said = refused(**{variable: value})

    assert code == 2
    assert variable in said
    assert said.count("\n") == 1


def test_a_ledger_that_is_no_ledger_stops_the_start(refused, tmp_path):
    (tmp_path / "ledger").write_text("dear diary\n")

    code, said = refused(SANDBOX_LEDGER=str(tmp_path / "ledger"))

    assert (code, said.count("\n")) == (2, 1)


def test_a_busy_port_is_named_and_stops_the_start(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        code, said = refused(SANDBOX_PORT=port)

    assert (code, said.count("\n")) == (1, 1)
    assert port in said


def test_the_ledger_survives_a_kill(launch, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    first = launch(SANDBOX_SPEED="1000", SANDBOX_LEDGER=str(ledger))
    first.fault({"picture": "plain"})
    first.generate(n=2, prompt="a killed fox")
    first.submit()
    bought = first.purchases()
    first.process.kill()
    first.process.wait()
    with ledger.open("a") as file:
        file.write('{"provider": "torn')

    second = launch(SANDBOX_LEDGER=str(ledger))

    assert second.purchases() == bought
    assert len(bought) == 3
    second.http.delete(f"{second.url}/_sandbox/purchases", timeout=20)
    assert ledger.read_text() == ""


def test_speed_divides_the_delays_and_sigterm_ends_them(launch):
    slow = launch()  # at the providers' own pace
    url = slow.submit().json()["polling_url"]
    time.sleep(0.25)
    assert 0.04 < slow.poll(url).json()["progress"] < 0.5

    gone = threading.Thread(target=_ignore_errors, args=(slow.generate,))
    gone.start()
    slow.until(lambda: slow.calls("openai")["open"], lambda count: count == 1)
    started = time.monotonic()
    slow.process.send_signal(signal.SIGTERM)

    assert slow.process.wait(timeout=5) == 0
    assert time.monotonic() - started < 1
    gone.join()


def test_what_takes_five_seconds_takes_a_tenth_of_one_at_fifty_times_the_speed(sandbox):
    started = time.monotonic()

    assert sandbox.result()["status"] == "Ready"

    assert 0.1 <= time.monotonic() - started < 2


def test_one_entry_per_picture_is_kept(sandbox):
    before = time.time()

    answer = sandbox.generate(n=3, prompt="three foxes")
    job = sandbox.submit("flux-dev", prompt="a job", seed=7).json()

    *pictures, flux = sandbox.purchases()
    assert len(pictures) == 3
    for entry in pictures:
        assert entry["provider"] == "openai"
        assert entry["prompt"] == "three foxes"
        assert entry["model"] == "gpt-image-2"
        assert entry["job_id"] == answer.headers["x-request-id"]
        assert before <= entry["at"] <= time.time()
    assert (flux["provider"], flux["job_id"], flux["model"]) == ("bfl", job["id"], "flux-dev")
    assert (flux["seed"], pictures[0]["seed"]) == (7, None)


def test_a_client_that_hangs_up_has_paid(sandbox):
    sandbox.fault({"delay": 30})

    with pytest.raises(requests.ReadTimeout):
        sandbox.generate(n=2, timeout=0.2)

    assert len(sandbox.purchases()) == 2
    sandbox.until(lambda: sandbox.calls("openai")["open"], lambda count: count == 0)


def test_calls_are_counted_by_kind(sandbox):
    sandbox.generate()
    url = sandbox.submit().json()["polling_url"]
    state = sandbox.until(lambda: sandbox.poll(url).json(), lambda state: state["result"])
    sandbox.http.get(state["result"]["sample"], timeout=20)

    sandbox.until(lambda: sandbox.calls("bfl")["open"], lambda count: count == 0)
    counts = sandbox.calls("bfl")
    assert (counts["submits"], counts["downloads"]) == (1, 1)
    assert counts["polls"] >= 2
    assert sandbox.calls("openai")["submits"] == 1
    sandbox.http.delete(f"{sandbox.url}/_sandbox/calls", timeout=20)
    assert set(sandbox.calls("bfl").values()) == {0}


def test_two_hundred_calls_wait_side_by_side(sandbox):
    sandbox.fault({"delay": 1})

    def ask(_: int) -> int:
        return requests.post(
            f"{sandbox.url}/openai/v1/images/generations",
            json={"model": "gpt-image-2", "prompt": "a fox"},
            headers={"Authorization": "Bearer k"},
            timeout=20,
        ).status_code

    started = time.monotonic()
    with ThreadPoolExecutor(200) as pool:
        statuses = set(pool.map(ask, range(200)))

    assert statuses == {200}
    assert time.monotonic() - started < 10
    assert len(sandbox.purchases()) == 200


def test_requests_may_come_in_chunks_and_connections_are_kept(sandbox):
    parts = iter([b'{"prompt": "a fox",', b' "seed": 5}'])

    answer = sandbox.http.post(
        f"{sandbox.url}/bfl/v1/flux-2-pro", data=parts, timeout=20,
        headers={"x-key": "k", "Content-Type": "application/json"},
    )  # fmt: skip

    assert answer.status_code == 200
    assert "Connection" not in answer.headers


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
    ],
)
def test_what_is_not_http_is_refused(sandbox, request_bytes, status):
    host, port = sandbox.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request_bytes)

        assert connection.recv(1000).split(b" ")[1] == status


def test_health_is_told(sandbox):
    answer = sandbox.http.get(f"{sandbox.url}/_sandbox/health", timeout=20)

    assert answer.json() == {"status": "ok"}


def _ignore_errors(call) -> None:
    with suppress(requests.RequestException):
        call()
