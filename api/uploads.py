"""Checks the pictures that came with a request, and only then keeps them.

They are looked at one after the other, so that a request never needs the memory of more than one.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from flask import Request
from PIL import Image

from api.errors import Problem, ValidationFailed
from api.forms import MOST_BYTES, Form, Upload, read_form, spool, wrong
from api.remote import FETCH_SECONDS, CannotFetch, Remote
from common.catalog import Catalog, Model, Sources
from common.errors import StoreUnavailable
from common.hub import off_the_hub
from common.pictures import BadPicture, Format, ImageLimits, decode, format_of
from common.storage import ImageStorage
from common.task import Input, Operation

__all__ = ["Attached", "Uploads"]

_AT_A_TIME = 2  # of a process: a decoded picture takes up to 250 MB
_PIECE = 65_536


@dataclass(frozen=True, slots=True)
class Attached:
    """Checked pictures on their way into the store."""

    inputs: tuple[Input, ...]
    mask: Input | None
    _files: Mapping[str, BinaryIO]
    _storage: ImageStorage

    def keep(self, task_id: str) -> None:
        """Store them as what the task starts from. Raises StoreUnavailable."""
        for input_ in self._all:
            file = self._files[input_.file]
            file.seek(0)
            self._storage.put(input_.name(task_id), file.read())

    def discard(self, task_id: str) -> None:
        """Take them out of the store again: there is no such task. What cannot be deleted now goes
        with everything of its age."""
        with contextlib.suppress(StoreUnavailable):
            self._storage.delete(*(input_.name(task_id) for input_ in self._all))

    @property
    def _all(self) -> tuple[Input, ...]:
        return self.inputs if self.mask is None else (*self.inputs, self.mask)


class Uploads:
    """Reads and checks the pictures of requests. One instance serves a process."""

    def __init__(
        self, storage: ImageStorage, catalog: Catalog, remote: Remote, limits: ImageLimits
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._remote = remote
        self._limits = limits
        self._gate = threading.BoundedSemaphore(_AT_A_TIME)

    @contextlib.contextmanager
    def reading(self, request: Request) -> Iterator[Form]:
        """The form or JSON object that `request` is; its files are there until the block ends.

        Raises as `read_form` does.
        """
        with contextlib.ExitStack() as files:
            yield read_form(request, files, self._gate)

    def check(self, form: Form, model: Model, operation: Operation) -> Attached:
        """See that the pictures are what `model` takes, those at an address included.

        Raises ValidationFailed with all that is wrong.
        """
        takes = model.sources(operation)
        assert takes is not None, operation
        _refuse(self._wrong_numbers(form, model, takes, operation))
        uploads, problems = self._fetched(form)
        _refuse(problems)
        _refuse(_too_heavy(uploads, model, takes))
        looked = [
            self._look(upload, takes, is_mask=at >= len(form.images))
            for at, upload in enumerate(uploads)
        ]
        _refuse([problem for problem in looked if isinstance(problem, Problem)])
        seen = [picture for picture in looked if isinstance(picture, _Seen)]
        if form.masks:
            *seen, mask = seen
            _refuse(_wrong_mask(mask, seen[0]))
            masked = mask.as_input(f"mask.{mask.format}")
        else:
            mask, masked = None, None
        inputs = tuple(
            picture.as_input(f"input-{at}.{picture.format}") for at, picture in enumerate(seen)
        )
        files = {made.file: picture.file for made, picture in zip(inputs, seen, strict=True)}
        if mask is not None and masked is not None:
            files[masked.file] = mask.file
        return Attached(inputs, masked, files, self._storage)

    def _wrong_numbers(
        self, form: Form, model: Model, takes: Sources, operation: Operation
    ) -> Iterator[Problem]:
        if not form.images:
            most = "one image" if takes.images == 1 else f"one to {takes.images} images"
            yield Problem(
                "missing_required_parameter",
                f"image is required: {model.id} takes {most}.",
                param="image",
                hint="Send files as multipart/form-data, or addresses as image_url in JSON.",
            )
        elif len(form.images) > takes.images:
            able = self._able(operation, lambda other: other.images >= len(form.images))
            yield Problem(
                "invalid_value",
                f"{len(form.images)} images were sent; {model.id} takes {takes.images} at most, "
                f"{_those(able)}.",
                param=form.images[takes.images].param,
                suggestions=able or None,
            )
        if form.masks and not takes.mask:
            able = self._able(operation, lambda other: other.mask)
            yield Problem(
                "invalid_value",
                f"{model.id} takes no mask; {_those(able)}.",
                param="mask",
                suggestions=able or None,
            )
        elif len(form.masks) > 1:
            yield Problem("invalid_value", "There can be one mask only.", param="mask")

    def _able(self, operation: Operation, able: Callable[[Sources], bool]) -> list[str]:
        return [
            model.id
            for model in self._catalog
            if (sources := model.sources(operation)) is not None and able(sources)
        ]

    def _fetched(self, form: Form) -> tuple[list[Upload], list[Problem]]:
        """All pictures with their bytes; those at an address have FETCH_SECONDS together."""
        deadline = time.monotonic() + FETCH_SECONDS
        left = MOST_BYTES
        uploads: list[Upload] = []
        problems: list[Problem] = []
        for source in (*form.images, *form.masks):
            if isinstance(source, Upload):
                uploads.append(source)
                continue
            try:
                data = self._remote.fetch(source.url, deadline=deadline)
            except CannotFetch as reason:
                problems.append(wrong(source.param, str(reason)))
                continue
            left -= len(data)
            if left < 0:
                problems.append(wrong(source.param, f"makes more than {MOST_BYTES} bytes of them"))
                break
            uploads.append(Upload(source.param, spool(form.files, data)))
        return uploads, problems

    def _look(self, upload: Upload, takes: Sources, *, is_mask: bool) -> _Seen | Problem:
        with self._gate:
            try:
                seen = off_the_hub(lambda: _seen(upload, self._limits, is_mask))
            except BadPicture as reason:
                return wrong(upload.param, f"{reason}: PNG, JPEG and WebP are taken")
        formats = ("png",) if is_mask else takes.formats
        if seen.format not in formats:
            wanted = ", ".join(formats)
            return wrong(upload.param, f"is {seen.format}; it has to be {wanted}")
        if takes.square and seen.width != seen.height:
            return wrong(upload.param, f"has {seen.width}x{seen.height} pixels: not a square")
        return seen


@dataclass(frozen=True, slots=True)
class _Seen:
    """A picture that was decoded. `clear`: whether some of it is fully transparent; None when it
    cannot be, for want of an alpha channel."""

    param: str
    file: BinaryIO
    format: Format
    width: int
    height: int
    bytes: int
    sha256: str
    clear: bool | None

    def as_input(self, name: str) -> Input:
        return Input(name, self.format, self.width, self.height, self.bytes, self.sha256)


def _seen(upload: Upload, limits: ImageLimits, is_mask: bool) -> _Seen:
    picture = decode(upload.file, limits)
    size = upload.file.seek(0, 2)
    upload.file.seek(0)
    digest = hashlib.sha256()
    while piece := upload.file.read(_PIECE):
        digest.update(piece)
    return _Seen(
        upload.param,
        upload.file,
        format_of(picture),
        picture.width,
        picture.height,
        size,
        digest.hexdigest(),
        _is_clear(picture) if is_mask else None,
    )


def _is_clear(picture: Image.Image) -> bool | None:
    if not picture.has_transparency_data:
        return None
    extrema: Any = picture.convert("RGBA").getchannel("A").getextrema()
    return bool(extrema[0] == 0)


def _wrong_mask(mask: _Seen, first: _Seen) -> Iterator[Problem]:
    if (mask.width, mask.height) != (first.width, first.height):
        yield wrong(
            mask.param,
            f"has {mask.width}x{mask.height} pixels and {first.param} "
            f"{first.width}x{first.height}; they have to be of one size",
        )
    elif mask.clear is None:
        yield wrong(
            mask.param, "has no alpha channel: what is fully transparent in it is made anew"
        )
    elif not mask.clear:
        yield wrong(
            mask.param,
            "marks nothing: what is fully transparent in it is made anew, and nothing is",
        )


def _too_heavy(uploads: list[Upload], model: Model, takes: Sources) -> Iterator[Problem]:
    total = sum(upload.file.seek(0, 2) for upload in uploads)
    if takes.max_bytes and total > takes.max_bytes:
        whole = "The images have" if len(uploads) > 1 else f"{uploads[0].param} has"
        yield Problem(
            "invalid_value",
            f"{whole} {total} bytes; {model.id} takes {takes.max_bytes}.",
            param=uploads[0].param,
        )


def _those(able: list[str]) -> str:
    return f"those that do: {', '.join(able)}" if able else "there is no model that does"


def _refuse(problems: Iterable[Problem]) -> None:
    if found := list(problems):
        raise ValidationFailed(found)
