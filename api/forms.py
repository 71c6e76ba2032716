"""Reads a request that comes with pictures: a form with files, or JSON with addresses.

What is sent is on disk from the first half megabyte on, and not in memory.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, cast

import orjson
import pybase64
from flask import Request, Response, after_this_request
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from api.errors import ApiError, Problem, ValidationFailed
from api.json_body import is_json, object_in
from common.hub import at_most

__all__ = ["MOST_BYTES", "Form", "Link", "Upload", "read_form", "spool", "wrong"]

MOST_BYTES = 200_000_000  # of a request

_MOST_JSON_BYTES = 70_000_000  # read as a whole; an image of 50 MB fits, in base64
_MOST_TEXT_BYTES = 500_000  # of a field of a form
_MOST_PARTS = 200
_IN_MEMORY = 500_000
_READ_ON_SECONDS = 30.0
_PIECE = 65_536

_NAMES = re.compile(r"(image|images)(\[[0-9]{0,2}\])?|image_url")
_MASKS = ("mask", "mask_url")
_DATA = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture whose bytes are here. `param` is what the caller called it."""

    param: str
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class Link:
    """A picture that has to be fetched."""

    param: str
    url: str


Source = Upload | Link


@dataclass(slots=True)
class Form:
    """A request with pictures: its other fields, as JSON has them, and the pictures apart."""

    fields: dict[str, Any] = field(default_factory=dict)
    images: list[Source] = field(default_factory=list)
    masks: list[Source] = field(default_factory=list)
    files: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # holds them open


def read_form(
    request: Request, files: contextlib.ExitStack, gate: contextlib.AbstractContextManager[Any]
) -> Form:
    """The form or JSON object that `request` is; `files` is what holds its files open.

    `gate` is passed by what needs much memory. Raises ApiError for a body that is neither, broken
    or too large, and ValidationFailed for pictures that are neither bytes nor addresses.
    """
    if request.mimetype == "multipart/form-data":
        request.max_content_length = MOST_BYTES
        with _to_its_end(request):
            texts, parts = _parsed(request, files)
        return _from_parts(texts, parts, files)
    if not is_json(request.mimetype):
        raise ApiError(
            "unsupported_media_type",
            f"The body must be a form or JSON, not {request.mimetype[:100]}.",
            hint="Send Content-Type: multipart/form-data with files, or application/json.",
        )
    request.max_content_length = _MOST_JSON_BYTES
    body = spool(files)
    with _to_its_end(request):
        while piece := request.stream.read(_PIECE):
            body.write(piece)
    body.seek(0)
    with gate:
        return _from_json(object_in(body.read()), files)


def wrong(param: str, what: str) -> Problem:
    """What is wrong with the picture that the caller called `param`."""
    return Problem("invalid_value", f"{param} {what}.", param=param)


def spool(files: contextlib.ExitStack, data: bytes = b"") -> BinaryIO:
    """A file with `data`, in memory while it is small, which `files` closes."""
    file = files.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115
    file.write(data)
    return cast("BinaryIO", file)


@contextlib.contextmanager
def _to_its_end(request: Request) -> Iterator[None]:
    """Say in our words why a body could not be read."""
    try:
        yield
    except RequestEntityTooLarge as error:
        _read_on(request)
        raise ApiError(
            "payload_too_large",
            f"The request is too large: a form may have {MOST_BYTES // 1_000_000} MB and "
            f"{_MOST_TEXT_BYTES // 1000} kB a field, JSON {_MOST_JSON_BYTES // 1_000_000} MB.",
        ) from error
    except Exception as error:  # every WSGI server has its own for a broken body
        raise ApiError("bad_request", "The body could not be read to its end.") from error


def _read_on(request: Request) -> None:
    """Take in what still comes once the answer is sent. A connection that is closed while its
    client sends takes the answer back."""
    body = request.environ["wsgi.input"]  # by then there is no current request any more

    def read() -> None:
        left = MOST_BYTES
        with contextlib.suppress(Exception), at_most(_READ_ON_SECONDS):
            while left > 0 and (piece := body.read(_PIECE)):
                left -= len(piece)

    @after_this_request
    def later(response: Response) -> Response:
        response.call_on_close(read)
        return response


def _parsed(
    request: Request, files: contextlib.ExitStack
) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
    def make(*_: Any, **__: Any) -> IO[bytes]:
        return spool(files)

    parser = FormDataParser(
        stream_factory=make,
        max_form_memory_size=_MOST_TEXT_BYTES,
        max_content_length=MOST_BYTES,
        max_form_parts=_MOST_PARTS,
        silent=False,
    )
    _, texts, parts = parser.parse(
        request.stream, request.mimetype, request.content_length, request.mimetype_params
    )
    return texts, parts


def _from_parts(
    texts: MultiDict[str, str], parts: MultiDict[str, FileStorage], files: contextlib.ExitStack
) -> Form:
    form = Form(files=files)
    problems = []
    for source in _sources_of(texts, parts, files):
        match source:
            case Problem():
                problems.append(source)
            case _ if source.param.startswith("mask"):
                form.masks.append(source)
            case _:
                form.images.append(source)
    form.images = _numbered(form.images)
    form.fields, more = _fields_of(texts)
    _refuse(problems + more)
    return form


def _sources_of(
    texts: MultiDict[str, str], parts: MultiDict[str, FileStorage], files: contextlib.ExitStack
) -> Iterator[Source | Problem]:
    for name, part in parts.items(multi=True):
        if not part.filename and not part.stream.seek(0, 2):
            continue  # the field of a page where no file was chosen
        if _is_source(name):
            yield Upload(_plain(name), cast("BinaryIO", part.stream))
        else:
            yield Problem("invalid_value", "Files are taken as image and mask.", param=None)
    for name, text in texts.items(multi=True):
        if _is_source(name) and text:
            yield _referred(_plain(name), text, files)


def _is_source(name: str) -> bool:
    return name in _MASKS or _NAMES.fullmatch(name) is not None


def _plain(name: str) -> str:
    return name.partition("[")[0]


def _numbered(sources: list[Source]) -> list[Source]:
    """Several pictures of one name are told apart by their number."""
    if len(sources) == 1:
        return sources
    return [
        Upload(f"{source.param}[{at}]", source.file)
        if isinstance(source, Upload)
        else Link(f"{source.param}[{at}]", source.url)
        for at, source in enumerate(sources)
    ]


def _fields_of(texts: MultiDict[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """The fields of a form as JSON would have them; an empty one is absent.

    An object is JSON text or `name[key]`, a list JSON text or `name[]`, as OpenAI's SDK has them.
    """
    fields: dict[str, Any] = {}
    problems = []
    for given, values in texts.lists():
        name, bracket, rest = given.partition("[")
        values = [value for value in values if value]
        if _is_source(given) or not values:
            continue
        if bracket and rest == "]":
            fields[name] = values
        elif len(values) > 1:
            shown = given[:64]
            problems.append(
                Problem("invalid_value", f"{shown!a} is there more than once.", param=shown)
            )
        elif bracket and rest.endswith("]") and isinstance(fields.setdefault(name, {}), dict):
            fields[name][rest[:-1]] = values[0]
        else:
            fields[given] = _value(given, values[0])
    return fields, problems


_NO_TEXTS = frozenset(
    {"n", "seed", "output_compression", "strength", "async", "metadata", "webhook_events"}
)


def _value(name: str, text: str) -> Any:
    """A form knows nothing but text."""
    if name not in _NO_TEXTS:
        return text
    with contextlib.suppress(ValueError):
        return orjson.loads(text)
    return text


def _from_json(body: dict[str, Any], files: contextlib.ExitStack) -> Form:
    fields = {n: v for n, v in body.items() if n not in ("image", "images", "image_url", *_MASKS)}
    form = Form(fields, files=files)
    problems: list[Problem] = []

    def add(to: list[Source], param: str, value: object) -> None:
        if value is None:
            return
        source = _referred(param, value, files)
        if isinstance(source, Problem):
            problems.append(source)
        else:
            to.append(source)

    for name in ("image", "image_url", "images"):
        match body.get(name):
            case [*several] if len(several) > _MOST_PARTS:
                problems.append(wrong(name, f"holds more than {_MOST_PARTS}"))
            case [*several]:
                for at, one in enumerate(several):
                    add(form.images, f"{name}[{at}]", one)
            case one:
                add(form.images, name, one)
    for name in _MASKS:
        add(form.masks, name, body.get(name))
    _refuse(problems)
    return form


def _referred(param: str, value: object, files: contextlib.ExitStack) -> Source | Problem:
    """A picture that is given as text: an address, or `data:` and the bytes in base64."""
    match value:
        case str(text) | {"image_url": str(text)} | {"image_url": {"url": str(text)}}:
            pass
        case {"file_id": _}:
            return wrong(param, "is a file_id, which is not known here: send the image itself")
        case _:
            return wrong(param, "has to be a file, an https address or a data: URL")
    text = text.strip()
    if text[:5].lower() != "data:":
        return Link(param, text)
    if (start := _DATA.match(text)) is None:
        return wrong(param, "is a data: URL that is not in base64")
    try:
        data = pybase64.b64decode(text[start.end() :], validate=True)
    except ValueError:
        return wrong(param, "is a data: URL whose base64 cannot be read")
    return Upload(param, spool(files, data))


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise ValidationFailed(problems)
