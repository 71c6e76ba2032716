"""A real S3 server with a bucket: SeaweedFS, which comes as a wheel for Linux."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.processes import free_port, until

SERVER = shutil.which("weed", path=Path(sys.executable).parent)

needs_object_store = pytest.mark.skipif(
    not SERVER and not os.environ.get("CI"), reason="no SeaweedFS: it has no wheel for this system"
)

BUCKET = "pictures"
KEY, SECRET = "darkroom", "secret-of-the-bucket"
READER = "reader"  # a key with the same secret, that may not write


class ObjectStore:
    """One server on a port that stays its own, whether it runs or not. `directory` is its data."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The environment of whoever keeps pictures here."""
        return {
            "STORAGE_URL": f"s3://{BUCKET}/darkroom",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def start(self) -> None:
        assert SERVER, "SeaweedFS is not there: it belongs to the environment of tests"
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "s3.json"
        config.write_text(json.dumps({"identities": [_may(KEY, "Admin"), _may(READER, "Read")]}))
        ports = {
            f"-{part}.port{kind}": free_port()
            for part in ("master", "volume", "filer", "s3", "admin")
            for kind in ("", ".grpc")
        } | {"-s3.port": self.port}
        options = {
            **ports,
            "-dir": self._directory,
            "-ip": "127.0.0.1",
            "-ip.bind": "127.0.0.1",
            "-bucket": BUCKET,
            "-s3.config": config,
            "-s3.autoCreateBucket": "false",
            "-s3.localSocket": self._directory / "s3.sock",
            "-filer.localSocket": self._directory / "filer.sock",
            "-s3.port.iceberg": 0,
            "-s3.port.lance": 0,
            "-master.telemetry": "false",
            "-admin.ui": "false",
            "-webdav": "false",
        }
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [SERVER, "-logtostderr", "mini", *(f"{k}={v}" for k, v in options.items())],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._serves, "the object store serves", 40)

    def bucket(self) -> S3Store:
        """The bucket as its owner has it, from the top."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=KEY,
            secret_access_key=SECRET,
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()[-2000:]
        with contextlib.suppress(BaseError, FileNotFoundError):  # it answers before it has a bucket
            obstore.put(self.bucket(), "ready", b"")
            obstore.delete(self.bucket(), "ready")
            return True
        return False

    def freeze(self) -> None:
        """It takes connections and does not answer, until it is thawed."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGKILL)  # it takes its time over SIGTERM
            self._process.wait(20)
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _may(key: str, action: str) -> dict[str, object]:
    credentials = [{"accessKey": key, "secretKey": SECRET}]
    return {"name": key, "credentials": credentials, "actions": [action]}


@contextlib.contextmanager
def running_object_store(directory: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(directory)
    try:
        store.start()
        yield store
    finally:
        store.stop()
