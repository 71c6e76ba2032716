"""`ops/darkroom` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from ops.client.access import find_access
from tests.contracts.scripted import Reply, Scripted
from tests.processes import free_port, until
from tests.stack import KEY, ROOT, Stack, running

PATIENCE = 60  # seconds until a client counts as hanging


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack")) as whole:
        whole.fault(picture="plain")  # drawing takes a second of CPU, and nobody looks at these
        yield whole


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


class Client:
    """Clients that run in a directory, with the server and the key in their environment."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[str]] = []
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "DATA_DIR": str(directory / "data"),
            "DARKROOM_URL": url,
            "DARKROOM_API_KEY": KEY,
        }

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.client", *arguments],
            cwd=self.directory,
            **{
                "env": self.environment,
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )
        self._started.append(process)
        return process

    def clean_up(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """The exit code, what was said to stdout, and to stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        assert KEY not in out + err
        assert "Traceback" not in err
        return process.returncode, out, err

    def body(self, *arguments: str) -> Any:
        """What a command that works prints with --json."""
        code, out, err = self.run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def picture(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO((self.directory / name).read_bytes()))


@pytest.fixture
def client(stack: Stack, tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path, stack.url)
    yield made
    made.clean_up()


def submitted(process: subprocess.Popen[str]) -> str:
    """The id of the task that a client has just submitted."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"imgtask_[0-9a-f]{32}", line):
            return found[0]
    raise AssertionError("no task")


# -- pictures


def test_a_picture_is_in_the_file_that_was_named(stack: Stack, client: Client) -> None:
    code, out, err = client.run(
        *("generate", "a fox in a boat", "-m", "flux-pro", "-s", "768x512", "-o", "fox.png")
    )

    assert (code, out) == (0, "fox.png\n"), err
    assert client.files == ["fox.png"]
    assert client.picture("fox.png").size == (768, 512)
    assert len(stack.purchases("a fox in a boat")) == 1


def test_the_command_in_the_checkout_is_the_client(client: Client) -> None:
    command = [str(ROOT / "ops" / "darkroom"), "generate", "a hare", "--no-wait"]
    done = subprocess.run(
        command, cwd=client.directory, env=client.environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"imgtask_[0-9a-f]{32}\n", done.stdout)


def test_several_pictures_are_numbered(client: Client) -> None:
    code, out, err = client.run(
        "generate", "two foxes", "-m", "flux-pro", "-s", "512x512", "-n", "2", "-o", "fox.png"
    )

    assert code == 0, err
    assert out.split() == client.files == ["fox-1.png", "fox-2.png"]


def test_in_a_directory_pictures_are_named_by_prompt_and_task(client: Client) -> None:
    body = client.body("generate", "A fox: at night!", "-m", "flux-pro", "-s", "512x512")

    name = f"a-fox-at-night-{body['id'][-8:]}.png"
    assert body["files"] == client.files == [name]
    assert body["status"] == "completed"


def test_a_file_is_named_by_what_is_in_it(client: Client) -> None:
    code, out, err = client.run("generate", "a fox", "-m", "gemini-image", "-o", "fox.png")

    assert (code, out) == (0, "fox.jpg\n"), err
    assert "the picture is a JPEG" in err
    assert "Warning" not in err
    assert client.picture("fox.jpg").format == "JPEG"


def test_nothing_is_bought_that_would_be_written_over_something(
    stack: Stack, client: Client
) -> None:
    (client.directory / "fox-2.png").write_text("mine")
    order = ("generate", "a precious fox", "-m", "flux-pro", "-n", "2", "-o", "fox.png")

    code, _, err = client.run(*order)

    assert (code, err) == (2, "fox-2.png is there already: name another file, or --force.\n")
    assert not stack.purchases("a precious fox")
    assert client.run(*order, "--force")[0] == 0
    assert client.picture("fox-2.png").format == "PNG"


def test_what_came_in_the_way_meanwhile_is_not_overwritten(stack: Stack, client: Client) -> None:
    process = client.start(
        "generate", "a fox sim:never_ready@poll*1", "-m", "flux-pro", "-o", "fox.png"
    )
    task_id = submitted(process)
    (client.directory / "fox.png").write_text("mine")

    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 5, err
    assert f"wait {task_id} -o fox.png" in err
    assert client.files == ["fox.png"]
    assert (client.directory / "fox.png").read_text() == "mine"
    code, out, err = client.run("wait", task_id, "-o", "other.png")
    assert (code, out) == (0, "other.png\n"), err


def test_a_picture_can_be_made_from_a_file(client: Client) -> None:
    Image.new("RGB", (512, 512), "red").save(client.directory / "red.png")

    code, out, err = client.run(
        *("generate", "make it green", "--image", "red.png", "-m", "flux-kontext-pro"),
        *("-o", "green"),
    )

    assert (code, out) == (0, "green.png\n"), err


def test_what_went_wrong_is_said_and_told_to_scripts(client: Client) -> None:
    code, out, err = client.run(
        "generate", "sim:moderated", "-m", "flux-pro", "-o", "fox.png", "--json"
    )

    assert code == 1
    assert re.search(r"^The task failed: .+ \(content_policy_violation\)$", err, re.M)
    assert json.loads(out)["error_detail"]["code"] == "content_policy_violation"
    assert client.files == []


# -- the other commands


def test_a_task_can_be_looked_at_waited_for_and_found_again(client: Client) -> None:
    (task_id,) = client.run("generate", "a badger", "-m", "flux-pro", "--no-wait")[1].split()

    code, address, err = client.run("wait", task_id)
    assert code == 0, err
    assert requests.get(address.strip(), timeout=10).headers["Content-Type"] == "image/png"

    code, out, err = client.run("status", task_id)
    assert code == 0, err
    assert out.startswith(f"{task_id}\n  status        completed\n")
    assert re.search(r"^  cost          \$0\.04$", out, re.M)
    assert client.body("status", task_id)["status"] == "completed"

    code, out, err = client.run("list", "--limit", "1", "-m", "flux-pro")
    assert code == 0, err
    assert re.search(rf"^{task_id}  completed  flux-pro  .*  a badger$", out, re.M)
    assert out.count("imgtask_") == 1


def test_a_list_goes_on_over_pages(stack: Stack, client: Client) -> None:
    wanted = [stack.submit(f"one of many {number}", "sd-webui")["id"] for number in range(3)]

    first = client.body("list", "--limit", "2", "--model", "sd-webui")
    second = client.body("list", "--limit", "9", "--model", "sd-webui", "--after", first["last_id"])

    assert [task["id"] for task in first["data"] + second["data"]] == wanted[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert f"--after {wanted[1]}\n" in client.run("list", "--limit", "2", "-m", "sd-webui")[2]


def test_a_page_on_which_nothing_fits_is_not_the_last(client: Client, scripted: Scripted) -> None:
    task = {"id": "imgtask_1", "status": "failed", "data": []}
    scripted.reset(
        Reply({"object": "list", "data": [], "has_more": True, "last_id": "imgtask_9"}),
        Reply({"object": "list", "data": [task], "has_more": False, "last_id": "imgtask_1"}),
    )
    client.environment["DARKROOM_URL"] = scripted.url

    assert client.body("list", "--status", "failed")["data"] == [task]
    first, second = (seen.path for seen in scripted.seen)
    assert "after" not in first
    assert "after=imgtask_9" in second and "status=failed" in second


def test_a_task_can_be_cancelled_once_it_cannot(stack: Stack, client: Client) -> None:
    task = stack.submit("a fox sim:never_ready", "flux-schnell")
    stack.accepted(task)

    assert client.run("cancel", task["id"])[:2] == (0, f"{task['id']} is cancelled.\n")
    assert client.body("status", task["id"])["cancelled"] is True

    done = stack.submit("a fox")
    stack.finished(done)
    code, _, err = client.run("cancel", done["id"])
    assert code == 4
    assert "409 task_not_cancellable" in err


def test_models_are_shown_without_a_key(client: Client) -> None:
    del client.environment["DARKROOM_API_KEY"]

    code, out, err = client.run("models")

    assert code == 0, err
    assert re.search(r"^flux-pro +available +\d+ s +\$0\.04 +4 +\d+x\d+, ", out, re.M)
    code, out, err = client.run("models", "flux-pro")
    assert code == 0, err
    assert "  usual size    1024x1024\n" in out


# -- refusals


def test_an_unknown_model_is_named_with_what_was_meant(client: Client) -> None:
    code, out, err = client.run("generate", "a fox", "-m", "flux-prp", "-n", "9", "--json")

    assert code == 4
    assert "400 model_not_found, field model" in err
    assert "\n  Did you mean flux-pro?\n" in err
    assert "(field n)" in err
    assert json.loads(out)["error"]["did_you_mean"] == "flux-pro"


def test_a_wrong_key_is_refused_and_not_shown(client: Client) -> None:
    key_file = client.directory / "key"
    key_file.write_text("sk-wrong-but-secret\n")

    code, out, err = client.run("list", "--key-file", str(key_file), "--json")

    assert code == 4
    assert f"401 invalid_api_key)\n  The key is from {key_file}." in err
    assert "wrong-but-secret" not in out + err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "a fox", "-o", "nowhere/fox.png"), "-o: nowhere is no directory"),
        (("generate", "a fox", "--image", "none.png"), "none.png cannot be read"),
        (("list", "--key-file", "none"), "The key cannot be read from none"),
        (("list", "--server", "pictures.example.com"), "is no address of a server"),
        (("list", "--server", "https://me:sk-secret@host"), "must have no user"),
        (("list", "--limit", "0"), "must be at least 1"),
    ],
)
def test_wrong_use_is_said_before_anything_is_asked(
    client: Client, arguments: tuple[str, ...], said: str
) -> None:
    client.environment["DARKROOM_URL"] = "http://127.0.0.1:9"

    code, _, err = client.run(*arguments)

    assert code == 2
    assert said in err
    assert "sk-secret" not in err


def test_without_a_key_it_is_said_where_one_is_looked_for(client: Client) -> None:
    del client.environment["DARKROOM_API_KEY"]

    code, _, err = client.run("list")

    assert code == 2
    assert "DARKROOM_API_KEY" in err and "--key-file" in err


def test_the_key_of_this_machine_is_for_this_machine(tmp_path: Path) -> None:
    (tmp_path / "api_key").write_text("sk-here\n")
    (tmp_path / "run.json").write_text('{"address": "http://127.0.0.1:4711"}')
    environment = {"DATA_DIR": str(tmp_path)}

    assert find_access(None, None, environment).address == "http://127.0.0.1:4711"
    keys = {
        server: find_access(server, None, environment).key
        for server in (None, "http://localhost:1/v1", "https://shop.example.com", "http://1.2.3.4")
    }

    assert list(keys.values()) == ["sk-here", "sk-here", "", ""]
    # As libraries for OpenAI's API are told it.
    assert find_access("https://a.example/v1/", None, {}).address == "https://a.example"


# -- when something breaks


def test_a_wait_goes_on_after_the_client_was_killed(stack: Stack, client: Client) -> None:
    prompt = "a patient fox sim:never_ready@poll*2"
    process = client.start("generate", prompt, "-m", "flux-pro", "-s", "512x512", "-o", "fox.png")
    task_id = submitted(process)
    _until(process, "pending")  # it waits

    process.kill()
    process.communicate()
    code, out, err = client.run("wait", task_id, "-o", "fox.png")

    assert (code, out) == (0, "fox.png\n"), err
    assert client.files == ["fox.png"]
    assert len(stack.purchases(prompt)) == 1


def test_a_wait_outlasts_a_restart_of_the_server(stack: Stack, client: Client) -> None:
    process = client.start(
        "generate", "a fox sim:never_ready@poll*2", "-m", "flux-pro", "-o", "fox.png"
    )
    submitted(process)

    stack.kill("web")
    away = _until(process, "not answer")
    stack.start("web")
    out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (0, "fox.png\n"), err
    assert f"{stack.url} does not answer: " in away
    assert "The server answers again." in err


def test_a_submit_whose_answer_was_lost_is_one_task(
    stack: Stack, client: Client, scripted: Scripted
) -> None:
    accepted: list[str] = []

    def forward() -> bytes:
        seen = scripted.seen[-1]
        names = ("content-type", "authorization", "idempotency-key")
        headers = {name: seen.headers[name] for name in names if name in seen.headers}
        answer = requests.post(stack.url + seen.path, data=seen.body, headers=headers, timeout=10)
        accepted.append(answer.json()["id"])
        return answer.content

    def forward_and_hang_up(_: BaseHTTPRequestHandler) -> None:
        forward()

    def forward_and_answer(handler: BaseHTTPRequestHandler) -> None:
        answer = forward()
        handler.send_response_only(202)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    scripted.reset(Reply(act=forward_and_hang_up), Reply(act=forward_and_answer))
    client.environment["DARKROOM_URL"] = scripted.url

    code, out, err = client.run("generate", "a fox", "-m", "flux-pro", "--no-wait")

    assert code == 0, err
    assert "does not answer" in err
    assert accepted == out.split() * 2


def test_a_server_that_is_busy_is_asked_again_when_it_says(
    client: Client, scripted: Scripted
) -> None:
    busy = {"error": {"code": "queue_full", "message": "Too many wait.", "param": None}}
    page = {"object": "list", "data": [], "has_more": False, "last_id": None}
    scripted.reset(
        Reply(busy, 429, {"Retry-After": "1"}),
        Reply(b"<html>", 502),
        Reply(page),
    )
    client.environment["DARKROOM_URL"] = scripted.url

    code, _, err = client.run("list")

    assert code == 0, err
    assert "Too many wait. (429 queue_full) Trying again in 1 s" in err
    assert "The server answers 502 Bad Gateway. Trying again" in err
    assert len(scripted.seen) == 3


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        (Reply({"error": {"code": "model_unavailable", "message": "No."}}, 503), 4, "No. (503"),
        (Reply({"error": {"code": "quota_exceeded", "message": "No."}}, 402), 4, "No. (402"),
        (Reply({"error": {"message": "Later."}}, 429, {"Retry-After": "999"}), 4, "Later. (429"),
        (Reply(b"<html>", 404), 3, "does not answer as Darkroom does (404 Not Found)"),
        (Reply({"hello": "world"}), 3, "does not answer as Darkroom does"),
        (Reply(b"", 301, {"Location": "https://new.example.com/"}), 3, "on to https://new.example"),
        (Reply({"error": {"code": "c", "message": "a\x1b[31mb\n"}}, 400), 4, "a [31mb  (400 c)"),
    ],
)
def test_what_will_not_change_is_asked_once(
    client: Client, scripted: Scripted, reply: Reply, code: int, said: str
) -> None:
    scripted.reset(reply)
    client.environment["DARKROOM_URL"] = scripted.url

    ended, _, err = client.run("list")

    assert ended == code
    assert said in err
    assert len(scripted.seen) == 1


def test_nobody_is_waited_for_longer_than_asked(client: Client) -> None:
    client.environment["DARKROOM_URL"] = f"http://127.0.0.1:{free_port()}"

    code, out, err = client.run("list", "--patience", "0.6", "--json")

    assert code == 3
    assert "does not answer: Connection refused. Trying again, for 0.6 s at most." in err
    assert json.loads(out)["error"]["code"] == "unreachable"


def test_a_name_that_leads_elsewhere_is_no_task(client: Client, scripted: Scripted) -> None:
    scripted.reset(Reply({"id": "a/../../../b", "status": "completed", "data": [{"url": "/x"}]}))
    client.environment["DARKROOM_URL"] = scripted.url

    assert client.run("wait", "imgtask_1", "-o", ".")[0] == 3
    assert len(scripted.seen) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(b"<html>", headers={"Content-Type": "text/html"}), "no picture, but 6 bytes of"),
        (Reply(b"", headers={"Content-Type": "image/png"}), "no picture, but 0 bytes of image/png"),
        (Reply(b"GIF89a", headers={"Content-Type": "image/png"}), "neither PNG, JPEG nor WebP"),
        (Reply({"error": {"code": "not_found", "message": "Gone."}}, 404), "Gone. (404"),
    ],
)
def test_what_is_no_picture_is_no_file_and_is_asked_for_without_the_key(
    client: Client, scripted: Scripted, reply: Reply, said: str
) -> None:
    task = {"id": "imgtask_1", "status": "completed", "data": [{"url": "/files/imgtask_1/0.png"}]}
    scripted.reset(Reply(task), reply)
    client.environment["DARKROOM_URL"] = scripted.url
    (client.directory / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (client.directory / ".netrc").chmod(0o600)

    code, _, err = client.run("wait", "imgtask_1", "-o", "fox.png")

    assert code == 5
    assert said in err
    assert "wait imgtask_1 -o fox.png" in err
    assert client.files == [".netrc"]
    assert scripted.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in scripted.seen[1].headers


# -- interrupts


def test_ctrl_c_leaves_the_task_and_says_how_to_go_on(stack: Stack, client: Client) -> None:
    prompt = "an interrupted fox sim:never_ready@poll*2"
    process = client.start("generate", prompt, "-m", "flux-pro", "-o", "fox.png")
    task_id = submitted(process)
    _until(process, "pending")

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    (again,) = re.findall(r"To take it up again: ops/darkroom (.*)", err)
    assert again == f"wait {task_id} -o fox.png"
    code, out, err = client.run(*shlex.split(again))
    assert (code, out) == (0, "fox.png\n"), err
    assert len(stack.purchases(prompt)) == 1


def test_ctrl_c_cancels_where_asked_to(stack: Stack, client: Client) -> None:
    process = client.start(
        *("generate", "sim:never_ready", "-m", "flux-schnell", "-o", "fox.png"),
        "--cancel-on-interrupt",
    )
    task_id = submitted(process)
    stack.accepted({"id": task_id})

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130, err
    assert "The task is cancelled." in err
    assert client.body("status", task_id)["cancelled"] is True


class Terminal:
    """A client on a terminal of its own, as wide as `columns`."""

    def __init__(self, client: Client, *arguments: str, columns: int = 60) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = client.start(
            *arguments, stdin=theirs, stderr=theirs, start_new_session=True, text=True
        )
        os.close(theirs)
        self.shown = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 4096)
            except OSError:  # nobody writes any more
                return
            if not piece:
                return
            self.shown += piece.decode(errors="replace")

    def end(self) -> int:
        self.process.communicate(timeout=PATIENCE)
        self._reader.join()
        os.close(self._ours)
        return self.process.returncode


def test_a_terminal_shows_a_bar_in_one_line(client: Client) -> None:
    terminal = Terminal(
        client, "generate", "sim:never_ready@poll*1", "-m", "flux-pro", "-o", "fox.png"
    )

    assert terminal.end() == 0, terminal.shown
    bars = re.findall(r"\r(\[#*-*\] [^\r]*)\x1b\[K", terminal.shown)
    assert len(bars) >= 2
    assert "pending 0 %" in bars[0]
    assert re.match(r"\[#{24}\]  completed, \d+ s$", bars[-1])
    assert max(map(len, bars)) < 60
    assert terminal.shown.count("\n") == 2  # that it was accepted, and the last state of the bar


def test_a_second_ctrl_c_on_a_terminal_cancels(stack: Stack, client: Client) -> None:
    terminal = Terminal(client, "generate", "sim:never_ready", "-m", "flux-schnell")
    until(lambda: "processing" in terminal.shown, "a bar")
    task_id = re.findall(r"imgtask_[0-9a-f]{32}", terminal.shown)[0]
    stack.accepted({"id": task_id})

    terminal.process.send_signal(signal.SIGINT)
    until(lambda: "cancels it" in terminal.shown, "an offer")
    terminal.process.send_signal(signal.SIGINT)

    assert terminal.end() == 130
    assert "The task is cancelled." in terminal.shown
    assert client.body("status", task_id)["cancelled"] is True


def test_what_is_no_terminal_gets_a_line_for_each_change(client: Client) -> None:
    code, _, err = client.run(
        "generate", "a fox sim:never_ready@poll*1", "-m", "flux-pro", "-o", "fox.png"
    )

    assert code == 0, err
    assert "\r" not in err and "\x1b" not in err
    lines = err.splitlines()
    assert lines[0].startswith("Accepted: imgtask_")
    assert lines[1].startswith("pending 0 %")
    assert lines[-1] == "completed"
    assert len(lines) == len(set(lines))


def _until(process: subprocess.Popen[str], text: str) -> str:
    """What a client says to stderr until the text is in it."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} is not in {said!r}")


def test_it_needs_requests_and_nothing_else() -> None:
    code = """
import sys, requests
before = set(sys.modules)
import ops.client.__main__
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    strangers = {name for name in run.stdout.split() if name not in sys.stdlib_module_names}
    assert strangers == {"ops"}
