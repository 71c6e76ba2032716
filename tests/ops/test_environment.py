"""`ops/environment.py` in a checkout of its own, with the real uv and a package made here."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "ops" / "lock"


def locked_versions(name):
    return set(re.findall(r"^([\w.-]+==[\w.]+)", (LOCKS / name).read_text(), re.MULTILINE))


def test_all_locks_agree():
    assert locked_versions("runtime.txt") < locked_versions("otel.txt")
    assert locked_versions("otel.txt") < locked_versions("test.txt")


@pytest.mark.parametrize("name", ["runtime.txt", "otel.txt", "test.txt", "uv.txt"])
def test_locks_pin_every_file_and_name_no_registry(name):
    text = (LOCKS / name).read_text()

    assert "://" not in text
    assert all("--hash=sha256:" in text.split(pin)[1] for pin in locked_versions(name))


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose locks ask for one small package, and whose uv is there already."""
    if not (ROOT / ".boot" / "bin" / "uv").exists():
        pytest.skip("needs .boot/bin/uv, which ops/run and ops/test bring")
    root = tmp_path / "checkout"
    locks = root / "ops" / "lock"
    locks.mkdir(parents=True)
    shutil.copy(ROOT / "ops" / "environment.py", root / "ops")
    shutil.copy(LOCKS / "uv.txt", locks)
    (root / ".boot" / "bin").mkdir(parents=True)
    (root / ".boot" / "bin" / "uv").symlink_to(ROOT / ".boot" / "bin" / "uv")
    shutil.copy(LOCKS / "uv.txt", root / ".boot")
    for name, packages in {
        "runtime": ("one",),
        "otel": ("one", "more"),
        "test": ("one", "more", "two"),
    }.items():
        pins = (f"{package} @ {wheel(tmp_path, package)}" for package in packages)
        (locks / f"{name}.txt").write_text("\n".join(pins) + "\n")
    return root


def wheel(directory, name):
    """A wheel with one module; its address with its hash, as a requirement wants it."""
    path = directory / f"{name}-1.0-py3-none-any.whl"
    information = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(
            f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{information}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(
            f"{information}/entry_points.txt", f"[console_scripts]\n{name} = {name}:main\n"
        )
        archive.writestr(f"{information}/RECORD", "")
    return f"{path.as_uri()} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def start(checkout, name, *arguments):
    return subprocess.Popen(
        [sys.executable, checkout / "ops" / "environment.py", name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def run(checkout, name, *arguments):
    """Run to its end; exit code, stdout, stderr."""
    process = start(checkout, name, *arguments)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_makes_the_environment_once(checkout):
    _, _, first = run(checkout, "runtime")

    code, output, second = run(checkout, "runtime", "-c", "import one; print(one.__file__)")

    assert "Installing" in first
    assert (code, second) == (0, "")
    assert output.startswith(str(checkout / ".venv"))


def test_two_first_starts_at_once_make_one_environment(checkout):
    both = [start(checkout, "runtime", "-c", "import one") for _ in range(2)]

    errors = [process.communicate(timeout=60)[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], errors
    assert "".join(errors).count("Installing") == 1


def test_an_environment_made_for_tests_serves_all_and_stays_one(checkout):
    run(checkout, "test")

    code, _, errors = run(checkout, "runtime", "-c", "import one, two")
    assert (code, errors) == (0, "")

    for lock in (checkout / "ops" / "lock").glob("*t*.txt"):
        lock.write_text(lock.read_text() + "# changed\n")
    code, _, errors = run(checkout, "runtime", "-c", "import one, two")
    assert code == 0
    assert "Installing ops/lock/test.txt" in errors


def test_a_moved_checkout_gets_a_new_environment(checkout, tmp_path):
    run(checkout, "runtime")
    moved = checkout.rename(tmp_path / "elsewhere")

    code, output, errors = run(moved, "runtime", "-c", "import one; print(one.__file__)")

    assert code == 0, errors
    assert output.startswith(str(moved / ".venv"))
    assert str(moved) in (moved / ".venv" / "bin" / "one").read_text().splitlines()[0]


def test_a_file_with_another_hash_is_refused_in_plain_words(checkout, tmp_path):
    (tmp_path / "one-1.0-py3-none-any.whl").write_bytes(b"something else")

    code, _, errors = run(checkout, "runtime", "-c", "import one")

    assert code == 1
    assert errors.endswith("Installing ops/lock/runtime.txt into .venv failed; see above.\n")
    assert "Traceback" not in errors


@pytest.mark.parametrize("name", ["run", "test"])
def test_an_unsuitable_python_is_named(tmp_path, name):
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("sh", "readlink", "dirname"):
        (programs / program).symlink_to(shutil.which(program))
    old = programs / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.4\nexit 1\n')
    old.chmod(0o755)

    ended = subprocess.run(
        [ROOT / "ops" / name], env={"PATH": str(programs)}, capture_output=True, text=True
    )

    assert ended.returncode == 1
    assert ended.stderr == (
        "Darkroom needs Python 3.11, 3.12, 3.13 or 3.14 as python3 (here: Python 3.10.4).\n"
    )
