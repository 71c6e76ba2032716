"""The launcher by itself: it runs small Procfiles instead of the product."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest
import redis
import requests

from common.liveness import Liveness
from tests.processes import until

ROOT = Path(__file__).resolve().parents[2]

WEB = """
import http.server, os
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Ready).serve_forever()
"""
# Says when it starts and when it is told to stop, and then takes the given number of seconds.
CHILD = """
import signal, sys, time
name, seconds = sys.argv[1], float(sys.argv[2])
def stop(*_):
    print(name, "stops", flush=True)
    time.sleep(seconds)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print(name, "started", flush=True)
while True:
    signal.pause()
"""
# Shows that it gets on, but for a while only.
FLAGGING = """
import pathlib, os, sys, time
from common.liveness import Liveness
liveness = Liveness(pathlib.Path(os.environ["DATA_DIR"]))
liveness.begin()
print("worker started", flush=True)
for _ in range(20):
    time.sleep(0.1)
    liveness.show()
print("worker flags", flush=True)
time.sleep(3600)
"""


class Procfile:
    """Writes Procfiles in which `web` answers."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "web.py").write_text(WEB)
        (directory / "child.py").write_text(CHILD)
        (directory / "flagging.py").write_text(FLAGGING)

    def __call__(self, **lines):
        """The arguments with which the launcher runs these lines."""
        commands = {"web": f"python {self.directory}/web.py", **lines}
        path = self.directory / "Procfile"
        path.write_text("".join(f"{name}: {line}\n" for name, line in commands.items()))
        return "--procfile", str(path)

    def child(self, name, seconds=0):
        """The command of a child that takes its time to stop."""
        return f"python {self.directory}/child.py {name} {seconds}"

    @property
    def flagging(self):
        """The command of a child that hangs after two seconds."""
        return f"env PYTHONPATH={ROOT} python {self.directory}/flagging.py"


@pytest.fixture
def procfile(tmp_path):
    return Procfile(tmp_path)


@pytest.fixture(scope="module")
def shared(launch_to_share):
    """A launcher that tests share which leave it as it was."""
    procfile = Procfile(launch_to_share.directory)
    arguments = procfile(worker=procfile.child("worker"))
    return ready(launch_to_share(*arguments, WORKERS="2", SANDBOX="off"))


def ready(launched):
    launched.await_text("Ctrl-C stops everything")
    return launched


def redis_url(launched):
    return json.loads((launched.data_dir / "run.json").read_text())["redis_url"]


def test_starts_as_many_workers_as_wanted(shared):
    shared.await_text(r"worker\.1 +\| worker started")
    shared.await_text(r"worker\.2 +\| worker started")


def test_the_link_to_the_playground_brings_the_key_along(shared):
    key = re.search(r"API key +(sk-\S+)", shared.text)[1]

    assert re.search(r"Playground +(\S+)", shared.text)[1] == f"{shared.address}/#key={key}"


def test_the_link_for_the_operator_brings_a_key_of_its_own(shared):
    key = (shared.data_dir / "admin_key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}

    assert re.search(r"Operator +(\S+)", shared.text)[1] == f"{shared.address}/admin#key={key}"
    overview = requests.get(f"{shared.address}/v1/admin/overview", headers=headers, timeout=10)
    assert overview.status_code == 200


def test_a_second_start_on_the_same_directory_is_refused(shared, launch, procfile):
    second = launch(*procfile(), DATA_DIR=str(shared.data_dir))

    assert second.await_end() == 1
    assert second.text.count("\n") == 1
    assert f"DATA_DIR: {shared.data_dir} is in use" in second.text
    assert shared.address in second.text


def test_uses_the_redis_of_the_settings(shared, launch, procfile):
    second = ready(launch(*procfile(), REDIS_URL=redis_url(shared), SANDBOX="off"))

    assert not second.processes("valkey-server")


def test_valkey_wants_its_password(shared):
    without = re.sub("//.*@", "//", redis_url(shared))

    with redis.Redis.from_url(without) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_secrets_are_for_their_owner_alone(shared):
    for name in ("api_key", "admin_key", "run.json", "valkey/valkey.conf"):
        mode = (shared.data_dir / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name


def test_valkey_keeps_address_and_data_when_it_is_killed(shared):
    with redis.Redis.from_url(redis_url(shared)) as client:
        client.set("kept", "yes")

    shared.kill("valkey-server")
    shared.await_text("valkey was killed by signal 9; starting it again")

    def kept():
        with redis.Redis.from_url(redis_url(shared)) as client:
            try:
                return client.get("kept") == b"yes"
            except redis.RedisError:  # it does not answer yet, or is loading
                return False

    shared.await_that(kept, "data in Valkey")


def test_stops_what_brings_work_before_what_does_it_and_the_database_last(launch, procfile):
    children = {name: procfile.child(name, 0.2) for name in ("worker", "beat", "helper")}
    running = ready(launch(*procfile(**children)))
    for name in children:
        running.await_text(f"{name} started")

    code = running.stop()

    assert code == 0
    assert re.findall(r"\| (\w+) stops\n", running.text) == ["beat", "worker", "helper"]
    assert not running.processes()
    assert not (running.data_dir / "run.json").exists()


def test_interrupt_waits_for_work_in_flight_and_a_second_one_does_not(launch, procfile):
    running = ready(launch(*procfile(worker=procfile.child("worker", 3600)), SANDBOX="off"))
    running.await_text("worker started")

    running.signal(signal.SIGINT)
    running.await_text(r"waiting for worker to finish what is in flight, \d+ s at most")
    running.signal(signal.SIGINT)

    assert running.await_end() == 0
    assert not running.processes()


def test_kills_a_child_that_does_not_stop(launch, procfile):
    arguments = procfile(worker=procfile.child("worker", 3600))
    running = ready(launch(*arguments, SHUTDOWN_SECONDS="1", SANDBOX="off"))
    running.await_text("worker started")

    code = running.stop()

    assert code == 0
    assert "worker did not stop within 1 s: killed" in running.text
    assert not running.processes()


def test_starts_a_child_again_later_and_later(launch, procfile):
    running = ready(launch(*procfile(helper="sh -c 'sleep 0.1; exit 3'"), SANDBOX="off"))

    running.await_text(r"helper ended with exit code 3; starting it again in 0\.2 s")
    running.await_text(r"helper ended with exit code 3; starting it again in 0\.4 s")
    running.await_text(r"helper ended with exit code 3; starting it again in 0\.8 s")


def test_kills_a_child_that_does_not_get_on_and_starts_it_again(launch, procfile):
    running = ready(launch(*procfile(worker=procfile.flagging), STALL_SECONDS="2", SANDBOX="off"))

    running.await_text(
        r"worker +\| worker started\n(.*\n)*"
        r"worker +\| worker flags\n(.*\n)*"
        r"run +\| worker has not got on for \d s: killed\n"
        r"run +\| worker was killed by signal 9; starting it again in .*\n(.*\n)*"
        r"worker +\| worker started\n"
    )


def test_may_leave_a_child_alone_that_does_not_get_on(launch, procfile):
    running = ready(launch(*procfile(worker=procfile.flagging), STALL_SECONDS="0", SANDBOX="off"))
    running.await_text("worker flags")

    until(lambda: max(ages(running), default=0) > 4, "nothing happens for some time")

    assert "killed" not in running.text


def ages(launched):
    """How long ago the launcher's children got on."""
    return Liveness(launched.data_dir).ages().values()


def test_the_api_key_outlives_the_launcher(launch, procfile):
    first = ready(launch(*procfile(), SANDBOX="off"))
    first.stop()

    second = ready(launch(*procfile(), DATA_DIR=str(first.data_dir), SANDBOX="off"))

    key = re.compile(r"API key +(sk-\S+)")
    assert key.search(second.text)[1] == key.search(first.text)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_nothing_outlives_a_killed_launcher(launch, procfile):
    running = ready(launch(*procfile(worker=procfile.child("worker", 3600)), WORKERS="2"))

    running.kill("ops.launcher")
    running.await_end()

    # The kernel ends them one after the other, after the launcher.
    until(lambda: not running.processes(), "the end of all processes")


@pytest.mark.parametrize("setting", ["PORT", "SANDBOX_PORT"])
def test_a_busy_port_is_named_before_anything_starts(launch, procfile, setting):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        running = launch(*procfile(), **{setting: str(port)})
        code = running.await_end()

    assert code == 1
    assert running.text.count("\n") == 1
    assert running.text.startswith(f"{setting}: port {port} on 127.0.0.1 cannot be used")


def test_one_port_for_two_servers_is_refused(launch, procfile):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])

    running = launch(*procfile(), PORT=port, SANDBOX_PORT=port)

    assert running.await_end() == 1
    assert running.text == f"PORT and SANDBOX_PORT are both {port}; change one of them.\n"


def test_a_directory_that_cannot_be_written_is_named(launch, procfile, tmp_path):
    (tmp_path / "file").touch()

    running = launch(*procfile(), DATA_DIR=str(tmp_path / "file" / "data"))

    assert running.await_end() == 1
    assert running.text.startswith(f"DATA_DIR: cannot write to {tmp_path}/file/data")
    assert running.text.count("\n") == 1


def test_every_bad_setting_is_named(launch, procfile):
    running = launch(*procfile(), PORT="http", WORKERS="-1")

    assert running.await_end() == 2
    assert re.fullmatch(r"PORT: .+\nWORKERS: .+\n", running.text)


def test_a_misspelt_setting_in_the_env_file_is_named(launch, tmp_path):
    checkout = tmp_path / "checkout"
    for part in ("ops", "common"):
        shutil.copytree(ROOT / part, checkout / part)
    (checkout / ".env").write_text("WORKER=3\n")
    command = ("env", f"PYTHONPATH={checkout}", sys.executable, "-m", "ops.launcher")

    running = launch(command=command)

    assert running.await_end() == 2
    assert running.text == "WORKER: no such setting in .env; did you mean WORKERS?\n"


def test_a_mistake_in_the_catalog_of_ones_own_is_named_before_anything_starts(
    launch, procfile, tmp_path
):
    (tmp_path / "models.toml").write_text("[own]\nroutes = []\n")

    running = launch(*procfile(), CATALOG_FILE="models.toml")

    assert running.await_end() == 2
    lines = running.text.splitlines()
    assert f"CATALOG_FILE: {tmp_path}/models.toml, model own: sizes: Field required" in lines
    assert all(line.startswith("CATALOG_FILE: ") for line in lines)


def test_says_what_did_not_come_up_and_its_last_words(launch, procfile):
    running = launch(*procfile(helper="sh -c 'echo no paint left; exit 1'", web="sleep 3600"))

    assert running.await_end() == 1
    assert re.search(r"web: http://127\.0\.0\.1:\d+/readyz does not answer", running.text)
    assert re.search(r"helper, which died \d times:\n  \| no paint left\n", running.text)
    assert "Traceback" not in running.text
    assert not running.processes()


def test_settings_reach_the_children(launch, procfile, tmp_path):
    names = ("REDIS_URL", "DATA_DIR", "PORT", "SANDBOX_URL")
    show = "; ".join(f"echo {name}=${name}" for name in names)
    running = ready(launch(*procfile(helper=f"sh -c '{show}; exec sleep 3600'"), DATA_DIR="data"))

    running.await_text(rf"DATA_DIR={re.escape(str(tmp_path / 'data'))}\n")
    running.await_text(r"REDIS_URL=redis://:\S+@127\.0\.0\.1:\d+/0\n")
    running.await_text(rf"SANDBOX_URL={re.escape(running.sandbox)}\n")
    running.await_text(rf"PORT={running.address.rpartition(':')[2]}\n")
