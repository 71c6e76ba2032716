"""A completed task says what size its pictures really have, whatever was asked for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from api.schemas import ImageTask
from common.connection import connect
from common.file_signer import FileSigner
from common.pictures import ImageLimits
from common.storage import ImageStorage
from common.task import ImageRequest, Result, Status, StoredImage, Task
from common.task_body import TaskBody
from workers.images import verify

LIMITS = ImageLimits(bytes=50_000_000, pixels=64_000_000)
NOTICE = "Said at the submit."


@pytest.fixture
def bodies(tmp_path: Path) -> TaskBody:
    signer = FileSigner(connect("redis://127.0.0.1:1/0"), "a secret")
    storage = ImageStorage.open(tmp_path.as_uri())
    return TaskBody(signer, storage, lambda: "http://here")


def completed(request: ImageRequest, *made: tuple[int, int], quarter: int | None = None) -> Task:
    """The task as a worker leaves it whose provider sent pictures of these sizes."""
    images = []
    for index, size in enumerate(made):
        sent = io.BytesIO()
        Image.new("RGB", size, "teal").save(sent, "JPEG")
        kept = verify(sent.getvalue(), request, LIMITS, quarter=quarter)
        name = f"imgtask_0/{index}.{kept.format}"
        images.append(
            StoredImage(name, kept.format, kept.width, kept.height, len(kept.data), kept.sha256)
        )
    return Task(
        id="imgtask_0",
        owner="key_0",
        request=request,
        queue="images.gemini",
        created=0,
        deadline=1,
        status=Status.COMPLETED,
        progress=100,
        warnings=(NOTICE,),
        result=Result(tuple(images), "gemini", "gemini-3.1-flash-image"),
    )


def sizes(body: dict[str, Any]) -> list[str]:
    return [f"{image['width']}x{image['height']}" for image in body["data"]]


@pytest.mark.parametrize(
    ("asked", "made", "delivered"),
    [
        ("1376x768", (1376, 768), "1376x768"),
        ("512x512", (1024, 1024), "512x512"),  # larger and of the same shape: scaled down
    ],
)
def test_a_picture_of_the_size_that_was_asked_for_needs_no_word(
    bodies: TaskBody, asked: str, made: tuple[int, int], delivered: str
) -> None:
    body = bodies.any(completed(ImageRequest("gemini-image", "a fox", size=asked), made))

    assert (body["size"], sizes(body), body["warnings"]) == (asked, [delivered], [NOTICE])


@pytest.mark.parametrize(
    ("asked", "made", "delivered"),
    [
        ("1264x848", (1248, 832), "1248x832"),  # of almost that shape
        ("2048x2048", (1024, 1024), "1024x1024"),  # never enlarged
        ("1024x1024", (1376, 768), "1376x768"),  # never cropped
    ],
)
def test_pixels_that_the_provider_chose_are_told(
    bodies: TaskBody, asked: str, made: tuple[int, int], delivered: str
) -> None:
    body = bodies.any(completed(ImageRequest("gemini-image", "a fox", size=asked), made))

    assert (body["size"], sizes(body)) == (asked, [delivered])
    told = f"size {asked} was asked for; the provider made {delivered}."
    assert body["warnings"] == [NOTICE, told]
    ImageTask.model_validate(body)


def test_each_size_is_told_once(bodies: TaskBody) -> None:
    request = ImageRequest("gemini-image", "a fox", n=4, size="1264x848")
    made = [(1248, 832), (1264, 848), (1248, 832), (1376, 768)]

    body = bodies.any(completed(request, *made))

    assert sizes(body) == ["1248x832", "1264x848", "1248x832", "1376x768"]
    assert body["warnings"][-1] == (
        "size 1264x848 was asked for; the provider made 1248x832 and 1376x768."
    )


def test_a_part_of_midjourneys_grid_has_the_size_of_the_part(bodies: TaskBody) -> None:
    request = ImageRequest("midjourney", "a fox", size="1792x1024")

    body = bodies.any(completed(request, (2912, 1664), quarter=3))

    assert sizes(body) == ["1456x832"]
    assert body["warnings"][-1] == ("size 1792x1024 was asked for; the provider made 1456x832.")
