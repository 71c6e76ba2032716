"""The image store over a directory, and over a bucket."""

from __future__ import annotations

import datetime
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.errors import ConfigurationError, StoreUnavailable
from common.storage import ImageStorage

ROOT = Path(__file__).resolve().parents[2]
HOUR = datetime.timedelta(hours=1)

# Stores a picture and is killed at the moment at which it would get its name.
KILLED = """
import os, signal, sys
from common.storage import ImageStorage

def kill(event, _):
    if event == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)

storage = ImageStorage.open(sys.argv[1])
sys.addaudithook(kill)
storage.put("task/0.png", b"half" * 1_000_000)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "with a space" / "images"


@pytest.fixture
def storage(directory: Path) -> ImageStorage:
    return ImageStorage.open(directory.as_uri())


def test_what_is_put_can_be_had(storage: ImageStorage, directory: Path) -> None:
    storage.put("task/0.png", b"picture")

    assert storage.get("task/0.png") == b"picture"
    assert (directory / "task" / "0.png").read_bytes() == b"picture"


def test_what_was_never_put_is_none(storage: ImageStorage) -> None:
    assert storage.get("task/0.png") is None


def test_putting_again_overwrites(storage: ImageStorage, directory: Path) -> None:
    storage.put("task/0.png", b"a longer picture")
    storage.put("task/0.png", b"picture")

    assert storage.get("task/0.png") == b"picture"
    assert [path.name for path in directory.rglob("*") if path.is_file()] == ["0.png"]


def test_images_outlive_the_process(storage: ImageStorage, directory: Path) -> None:
    storage.put("task/0.png", b"picture")

    assert ImageStorage.open(directory.as_uri()).get("task/0.png") == b"picture"


def test_only_what_is_old_is_deleted(storage: ImageStorage, directory: Path) -> None:
    for name in ("old/0.png", "old/1.png", "new/0.png"):
        storage.put(name, b"picture")
    before = time.time() - 2 * 3600
    for name in ("old/0.png", "old/1.png"):
        os.utime(directory / name, (before, before))

    assert storage.delete_older_than(HOUR) == 2
    assert storage.get("old/0.png") is None
    assert storage.get("new/0.png") == b"picture"
    assert storage.delete_older_than(HOUR) == 0


def test_nobody_sees_half_a_picture(storage: ImageStorage) -> None:
    pictures = {bytes([n]) * 3_000_000 for n in range(2)}
    seen: set[bytes | None] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(storage.get("task/0.png"))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(10):
        for picture in pictures:
            storage.put("task/0.png", picture)
    over.set()
    reader.join()

    assert seen <= {None, *pictures}


def put_and_be_killed(directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, directory.as_uri()], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


def test_a_writer_that_is_killed_leaves_nothing_under_the_name(
    storage: ImageStorage, directory: Path
) -> None:
    put_and_be_killed(directory)

    assert storage.get("task/0.png") is None
    storage.put("task/0.png", b"picture")
    assert storage.get("task/0.png") == b"picture"


def test_a_writer_that_is_killed_leaves_the_former_picture(
    storage: ImageStorage, directory: Path
) -> None:
    storage.put("task/0.png", b"picture")

    put_and_be_killed(directory)

    assert storage.get("task/0.png") == b"picture"


def test_what_killed_writers_leave_is_deleted_once_it_is_old(
    storage: ImageStorage, directory: Path
) -> None:
    put_and_be_killed(directory)
    (litter,) = (directory / "task").iterdir()

    assert storage.delete_older_than(24 * HOUR) == 0
    assert litter.exists()
    before = time.time() - 2 * 3600
    os.utime(litter, (before, before))

    assert storage.delete_older_than(24 * HOUR) == 0
    assert not (directory / "task").exists()


def test_a_picture_is_on_the_disk_before_it_has_its_name(storage: ImageStorage) -> None:
    done: list[str] = []

    def note(_: object, event: str, function: object) -> None:
        if event == "c_call":
            done.append(getattr(function, "__name__", ""))

    sys.setprofile(note)
    storage.put("task/0.png", b"picture")
    sys.setprofile(None)

    # New directory, picture, name.
    assert [name for name in done if name in ("mkdir", "fsync", "replace")] == [
        *("mkdir", "fsync"),
        *("fsync", "replace"),
        "fsync",
    ]


def test_room_is_what_is_free_beyond_the_reserve(storage: ImageStorage, directory: Path) -> None:
    free = shutil.disk_usage(directory).free

    assert storage.has_room(0)
    assert storage.has_room(free // 2)
    assert not storage.has_room(2 * free)
    assert not list(directory.iterdir())


def test_a_directory_that_went_bad_has_no_room(storage: ImageStorage, directory: Path) -> None:
    directory.rmdir()
    directory.touch()

    assert not storage.has_room(0)


@pytest.mark.parametrize("name", ["../0.png", "task/../../0.png", "/etc/passwd"])
def test_no_name_leads_out_of_the_directory(storage: ImageStorage, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        storage.get(name)


def test_a_bucket_keeps_and_deletes_alike() -> None:
    bucket = ImageStorage.open("memory:///")
    bucket.put("task/0.png", b"a longer picture")
    bucket.put("task/0.png", b"picture")

    assert bucket.get("task/0.png") == b"picture"
    assert bucket.get("task/1.png") is None
    assert bucket.has_room(10**18)
    assert bucket.delete_older_than(HOUR) == 0
    assert bucket.delete_older_than(-HOUR) == 1
    assert bucket.get("task/0.png") is None


@pytest.mark.parametrize("url", ["nonsense://x", "s3://", "file://{file}/images"])
def test_a_store_that_cannot_be_opened_stops_the_start(tmp_path: Path, url: str) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(ConfigurationError, match="STORAGE_URL or DATA_DIR"):
        ImageStorage.open(url.format(file=file))


def test_a_directory_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    closed = Path("/proc") if sys.platform == "linux" else tmp_path  # closed to root as well
    if closed == tmp_path:
        closed.chmod(0o500)

    with pytest.raises(ConfigurationError, match="STORAGE_URL or DATA_DIR"):
        ImageStorage.open(closed.as_uri())


def test_a_directory_that_went_bad_is_reported(storage: ImageStorage, directory: Path) -> None:
    directory.rmdir()
    directory.touch()

    with pytest.raises(StoreUnavailable):
        storage.put("task/0.png", b"picture")
