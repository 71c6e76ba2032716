"""Makes the Python environment that Darkroom runs in, and runs a command in it.

    environment.py runtime|otel|test [ARGUMENTS of the environment's python…]

Standard library only: it runs on a machine that has Python and pip and nothing else. pip brings uv
into `.boot`, uv brings the packages of `ops/lock/<name>.txt` into `.venv`; every download is pinned
by its hash. When `.venv` already is what the lock says, nothing of that happens.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "ops" / "lock"
NAMES = ("runtime", "otel", "test")  # each lock holds all of the one before, in the same versions
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BOOT = ROOT / ".boot"
UV = BOOT / "bin" / "uv"

# Where systems keep the certificates they trust: Debian, Fedora, Alpine and macOS.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


class SetupError(Exception):
    """The environment could not be made; the text says why and what would help."""


def main() -> int:
    name, *command = sys.argv[1:]
    try:
        if name == "uv":
            _locked(_install_uv)
        else:
            ensure_environment(name)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if command:
        # PYTHONPATH instead of a change of directory: paths in the arguments stay relative.
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("PYTHONHOME", None)
        os.execve(PYTHON, [str(PYTHON), *command], environment)  # noqa: S606
    return 0


def ensure_environment(name: str) -> None:
    """Bring `.venv` to what `ops/lock/<name>.txt` says. Raises SetupError."""
    if not _is_current(name):
        _locked(lambda: None if _is_current(name) else _install_packages(name))


def _is_current(name: str) -> bool:
    enough = map(_stamp, NAMES[NAMES.index(name) :])
    return PYTHON.exists() and _read(_stamp_file()) in enough


def _stamp_file() -> Path:
    return VENV / "darkroom-lock"


def _stamp(name: str) -> str:
    digest = hashlib.sha256((LOCKS / f"{name}.txt").read_bytes()).hexdigest()
    return f"{name} {digest} {VENV}"


def _locked(work: Callable[[], None]) -> None:
    try:
        BOOT.mkdir(exist_ok=True)
        with (BOOT / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            work()
    except OSError as error:
        raise SetupError(f"Cannot make the environment in {ROOT}: {error}") from error


def _install_packages(name: str) -> None:
    made_for = _read(_stamp_file()).partition(" ")[0]
    if made_for in NAMES[NAMES.index(name) :]:
        name = made_for  # once made for more it stays so
    _install_uv()
    # In a .venv that was moved, scripts name a Python that is somewhere else, or nowhere.
    if not PYTHON.exists() or not _read(_stamp_file()).endswith(f" {VENV}"):
        _run("Making .venv", str(UV), "venv", "--clear", "--python", sys.executable, str(VENV))
    _stamp_file().unlink(missing_ok=True)
    sync = (str(UV), "pip", "sync", "--python", str(PYTHON), "--require-hashes")
    # Five processes start at once: compiling now is quicker than when each of them imports.
    command = (*sync, "--compile-bytecode", str(LOCKS / f"{name}.txt"))
    _run(f"Installing ops/lock/{name}.txt into .venv", *command)
    _stamp_file().write_text(_stamp(name))


def _install_uv() -> None:
    wanted = _read(LOCKS / "uv.txt")
    installed = BOOT / "uv.txt"
    if UV.exists() and _read(installed) == wanted:
        return
    if importlib.util.find_spec("pip") is None:
        raise SetupError(
            f"{sys.executable} has no pip, which the first start needs. "
            "Debian and Ubuntu: apt install python3-pip; elsewhere: python3 -m ensurepip"
        )
    _run(
        "Fetching uv",
        # --target also works where the system's Python is marked as externally managed.
        *(sys.executable, "-m", "pip", "install", "--target", str(BOOT), "--upgrade"),
        *("--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(LOCKS / "uv.txt")),
    )
    installed.write_text(wanted)


def _run(what: str, *command: str) -> None:
    """Run quietly; with a terminal count the seconds. The output is shown when it fails."""
    terminal = sys.stderr.isatty()
    started = time.monotonic()
    if not terminal:
        print(f"{what} …", file=sys.stderr, flush=True)
    with subprocess.Popen(
        command,
        env=_download_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while True:
            if terminal:
                line = f"\r{what} … {time.monotonic() - started:.0f} s"
                print(line, end="", file=sys.stderr, flush=True)
            try:
                output, _ = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                continue
    if terminal:
        print(file=sys.stderr)
    if process.returncode:
        raise SetupError(f"{output.rstrip()}\n{what} failed; see above.")


@functools.cache
def _download_environment() -> dict[str, str]:
    """For pip and uv: this system's certificates and package index, caches that can be written."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "true"}
    for name in ("VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH"):
        environment.pop(name, None)
    configured = _pip_configuration()
    bundle = configured.get("cert") or next(filter(os.path.exists, BUNDLES), None)
    if bundle:
        environment.setdefault("PIP_CERT", bundle)
    # uv does not read pip's configuration, and on a closed network only pip may know the mirror.
    if "index-url" in configured and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(environment):
        environment["UV_DEFAULT_INDEX"] = configured["index-url"]
    if "cert" in configured:
        environment.setdefault("SSL_CERT_FILE", configured["cert"])
    if not _can_cache(environment):
        environment["UV_CACHE_DIR"] = str(BOOT / "cache")
        environment["PIP_NO_CACHE_DIR"] = "1"
    return environment


def _pip_configuration() -> dict[str, str]:
    """pip's options from its files and PIP_ variables, by their names without the section."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    options = (line.partition("=") for line in answer.stdout.splitlines())
    return {key.rpartition(".")[2]: value.strip("'\"") for key, _, value in options}


def _can_cache(environment: dict[str, str]) -> bool:
    if "UV_CACHE_DIR" in environment:
        return True
    home = (
        environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or '/nonexistent'}/.cache"
    )
    try:
        Path(home, "uv").mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(Path(home, "uv"), os.W_OK)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
