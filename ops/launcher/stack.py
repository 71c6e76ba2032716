"""Everything that runs under the launcher: started in order, waited for, stopped in order."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis
import requests
from honcho.environ import parse_procfile

from common.connection import connect
from common.errors import DarkroomError
from common.keys import KeyStore
from common.liveness import Liveness
from common.redis_check import check_redis
from common.settings import Settings
from ops.launcher.data import DataDirectory, KeyFile, Running
from ops.launcher.errors import LauncherError
from ops.launcher.output import Output
from ops.launcher.ports import check_ports, reachable
from ops.launcher.supervisor import Child, Supervisor
from ops.launcher.valkey import prepare_valkey

__all__ = ["Stack"]

START_SECONDS = 60.0  # until everything has to answer
_QUIET_SECONDS = 2.0  # of waiting before it is said what for
_DEATHS = 5  # of one child before the start is given up
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class _Probe:
    """`check` returns None when `name` really answers, else what is missing."""

    name: str
    check: Callable[[], str | None]


class Stack:
    """Valkey and the sandbox where the settings want them, and the processes of a Procfile."""

    def __init__(
        self,
        settings: Settings,
        data: DataDirectory,
        output: Output,
        *,
        procfile: Path,
        without: frozenset[str] = frozenset(),
    ) -> None:
        """`without`: lines of the Procfile that are not wanted. Raises LauncherError."""
        self._settings = settings
        self._data = data
        self._output = output
        self._supervisor = Supervisor(output, Liveness(data.path), stall=settings.stall_seconds)
        try:
            text = procfile.read_text()
        except OSError as error:
            raise LauncherError(f"--procfile: {procfile}: {error.strerror}") from error
        self._lines = {
            name: line
            for name, line in parse_procfile(text).processes.items()
            if name not in without
        }
        self._children: dict[str, list[Child]] = {}
        self.address = f"http://{reachable(settings.host)}:{settings.port}"
        self.flower_address = f"http://{_LOOPBACK}:{settings.flower_port}"
        self.redis_url = settings.redis_url
        self.api_key = self.admin_key = ""

    async def start(self) -> None:
        """Start everything and return when all of it answers. Raises LauncherError."""
        check_ports(self._ports())
        if not self.redis_url:
            valkey = prepare_valkey(self._data)
            self.redis_url = valkey.url
            self._start(
                "valkey",
                Child(
                    "valkey",
                    valkey.command,
                    os.environ,
                    grace=60,
                    quiet=True,
                    # Where nothing ends it with the launcher it goes on holding the directory.
                    keep_open=(self._data.lock_fd,),
                ),
            )
        else:
            check_redis(self.redis_url)
        self._redis = connect(self.redis_url)
        await self._wait_for([_Probe("valkey", self._ping)])
        self._register_keys()
        self._start_processes()
        await self._wait_for(self._probes())
        self._data.announce(Running(os.getpid(), self.address, self.redis_url))

    async def stop(self) -> None:
        """Stop everything: who brings work first, then who does it, the database last."""
        children = dict(self._children)
        if children:
            self._say("stopping")
        self._data.leave()
        workers, sandbox, valkey = (
            children.pop(name, []) for name in ("worker", "sandbox", "valkey")
        )
        sources = children.pop("web", []) + children.pop("beat", [])
        await self._supervisor.stop(sources)
        await self._supervisor.stop(workers)
        await self._supervisor.stop(child for rest in children.values() for child in rest)
        await self._supervisor.stop(sandbox)
        await self._supervisor.stop(valkey)

    def hurry(self) -> None:
        """Let `stop` kill instead of wait."""
        self._supervisor.hurry()

    def _ports(self) -> dict[str, tuple[str, int]]:
        settings = self._settings
        ports = {}
        if "web" in self._lines:
            ports["PORT"] = (settings.host, settings.port)
        if "flower" in self._lines:
            ports["FLOWER_PORT"] = (_LOOPBACK, settings.flower_port)
        if settings.wants_sandbox:
            ports["SANDBOX_PORT"] = (_LOOPBACK, settings.sandbox_port)
        return ports

    def _start_processes(self) -> None:
        settings = self._settings
        environment = self._environment()
        if settings.wants_sandbox:
            command = (sys.executable, "-m", "ops.sandbox")
            self._start("sandbox", Child("sandbox", command, environment))
        for name, line in self._lines.items():
            grace = settings.shutdown_seconds if name == "worker" else 40
            count = settings.workers if name == "worker" else 1
            for number in range(1, count + 1):
                label = name if count == 1 else f"{name}.{number}"
                command = ("/bin/sh", "-c", f"exec {line}")
                self._start(name, Child(label, command, environment, grace=grace))

    def _start(self, kind: str, child: Child) -> None:
        self._children.setdefault(kind, []).append(child)
        self._supervisor.start(child)

    def _environment(self) -> Mapping[str, str]:
        settings = self._settings
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            "DATA_DIR": str(self._data.path),
            "REDIS_URL": self.redis_url,
            "PORT": str(settings.port),
            "FLOWER_PORT": str(settings.flower_port),
            "SANDBOX_PORT": str(settings.sandbox_port),
        }
        if settings.wants_sandbox:
            environment["SANDBOX_URL"] = f"http://{_LOOPBACK}:{settings.sandbox_port}"
        return environment

    def _register_keys(self) -> None:
        given = self._settings.bootstrap_api_key.get_secret_value()
        keys = KeyStore(self._redis)

        def kept(file: KeyFile, name: str, *, admin: bool = False) -> str:
            key = self._data.api_key(file)
            if keys.ensure(key, name, admin=admin).revoked:
                key = self._data.new_api_key(file)
                keys.ensure(key, name, admin=admin)
            return key

        try:
            if given:
                keys.ensure(given, "first key")
            self.api_key = given or kept("api_key", "first key")
            self.admin_key = kept("admin_key", "first operator", admin=True)
        except (DarkroomError, redis.RedisError) as error:
            raise LauncherError(f"REDIS_URL: no API key could be stored: {error}") from error

    def _probes(self) -> list[_Probe]:
        settings = self._settings
        probes = [_Probe("valkey", self._ping)]
        if settings.wants_sandbox:
            sandbox = f"http://{_LOOPBACK}:{settings.sandbox_port}/_sandbox/health"
            probes.append(_Probe("sandbox", lambda: _get(sandbox)))
        if "web" in self._lines:
            probes.append(_Probe("web", lambda: _get(f"{self.address}/readyz")))
        if "flower" in self._lines:
            probes.append(_Probe("flower", lambda: _get(f"{self.flower_address}/healthcheck")))
        return probes

    def _ping(self) -> str | None:
        try:
            self._redis.ping()
        except (redis.RedisError, OSError) as error:
            return str(error)
        return None

    async def _wait_for(self, probes: list[_Probe]) -> None:
        started = time.monotonic()
        said = ""
        while True:
            answers = await asyncio.gather(*(asyncio.to_thread(probe.check) for probe in probes))
            missing = {
                probe.name: answer
                for probe, answer in zip(probes, answers, strict=True)
                if answer is not None
            }
            if not missing:
                return
            waited = time.monotonic() - started
            gone = [child for child in self._all_children() if child.deaths >= _DEATHS]
            if waited > START_SECONDS or gone:
                raise LauncherError(self._failure(missing, waited))
            if waited > _QUIET_SECONDS and said != ", ".join(missing):
                said = ", ".join(missing)
                self._say(f"waiting for {said}")
            await asyncio.sleep(0.2)

    def _failure(self, missing: Mapping[str, str], waited: float) -> str:
        lines = [f"Not everything came up; after {waited:.0f} s:"]
        lines += [f"  {name}: {answer}" for name, answer in missing.items()]
        if "valkey" in missing and self._settings.redis_url:
            lines.append("  REDIS_URL is where it was looked for.")
        for child in self._all_children():
            if child.deaths or child.name in missing:
                lines.append(f"Last lines of {child.name}, which died {child.deaths} times:")
                lines += [f"  | {line}" for line in child.tail]
        return "\n".join(lines)

    def _all_children(self) -> list[Child]:
        return [child for children in self._children.values() for child in children]

    def _say(self, text: str) -> None:
        self._output.line("run", text)


def _get(url: str) -> str | None:
    try:
        answer = requests.get(url, timeout=5)
    except requests.RequestException:
        return f"{url} does not answer"
    if answer.status_code == requests.codes.ok:
        return None
    return f"{url} answers {answer.status_code}: {answer.text.strip():.300}"
