"""The image store over a directory; over a bucket: test_bucket.py."""

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
from common.task import new_task_id

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
storage.put(sys.argv[2], b"half" * 1_000_000)
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


def test_it_is_read_piece_by_piece_as_each_is_asked_for(
    storage: ImageStorage, directory: Path
) -> None:
    data = os.urandom(600_000)
    storage.put("task/0.png", data)
    found = storage.pieces("task/0.png")
    assert found is not None and storage.pieces("task/1.png") is None
    length, pieces = found

    first = next(pieces)
    (directory / "task" / "0.png").write_bytes(data[:300_000])  # the rest was not read yet

    assert (length, first) == (600_000, data[:262_144])
    assert b"".join(pieces) == data[262_144:300_000]


def test_putting_again_overwrites(storage: ImageStorage, directory: Path) -> None:
    storage.put("task/0.png", b"a longer picture")
    storage.put("task/0.png", b"picture")

    assert storage.get("task/0.png") == b"picture"
    assert [path.name for path in directory.rglob("*") if path.is_file()] == ["0.png"]


def test_images_outlive_the_process(storage: ImageStorage, directory: Path) -> None:
    storage.put("task/0.png", b"picture")

    assert ImageStorage.open(directory.as_uri()).get("task/0.png") == b"picture"


def age(path: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_only_what_is_old_is_deleted(storage: ImageStorage, directory: Path) -> None:
    old, new = new_task_id(), new_task_id()
    for name in (f"{old}/0.png", f"{old}/1.png", f"{new}/0.png"):
        storage.put(name, b"picture")
    for name in ("0.png", "1.png"):
        age(directory / old / name, hours=2)

    assert storage.delete_older_than(HOUR) == 2
    assert not (directory / old).exists()
    assert storage.get(f"{new}/0.png") == b"picture"
    assert storage.delete_older_than(HOUR) == 0


def test_what_a_task_has_stored_goes_together(storage: ImageStorage, directory: Path) -> None:
    task = new_task_id()
    for file in ("input-0.png", "0.png", "0.png.256.webp"):
        storage.put(f"{task}/{file}", b"picture")
    age(directory / task / "input-0.png", hours=2)

    assert storage.delete_older_than(HOUR) == 3
    assert not (directory / task).exists()


def test_what_others_keep_in_the_directory_is_not_deleted(
    storage: ImageStorage, directory: Path
) -> None:
    others = [directory / "holidays" / "beach.png", directory / "letter.txt"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        age(path, hours=2)

    assert storage.delete_older_than(HOUR) == 0
    assert all(path.exists() for path in others)


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


def put_and_be_killed(directory: Path, name: str = "task/0.png") -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, directory.as_uri(), name], cwd=ROOT)
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
    task = new_task_id()
    put_and_be_killed(directory, f"{task}/0.png")
    (litter,) = (directory / task).iterdir()

    assert storage.delete_older_than(24 * HOUR) == 0
    assert litter.exists()
    age(litter, hours=2)

    assert storage.delete_older_than(24 * HOUR) == 0
    assert not (directory / task).exists()


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


@pytest.mark.parametrize("url", ["nonsense://x", "s3://", "memory:///", "file://{file}/images"])
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
