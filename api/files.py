"""Finished images: their signed addresses, and the view that serves them.

An address works without a key, so that an `<img>` tag can load it, until the task expires. It
needs neither the record nor Redis: everything that matters is in the signature. With a bucket that
clients can reach it leads on to there, by an address that is good for minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterable

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.types import ResponseDict
from PIL import Image

from api.errors import ApiError
from api.openapi import errors, tag
from api.schemas import FilePath, FileQuery
from common.errors import StoreUnavailable
from common.file_signer import FileSigner
from common.hub import off_the_hub
from common.storage import ImageStorage

__all__ = ["make_blueprint"]

_FILE = re.compile(r"[0-9]{1,3}\.(png|jpeg|webp)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_THUMBNAIL_SIDES = range(16, 1025)
_KEPT_SIDES = (256, 512)  # what the playground asks for; others are made each time
_AT_A_TIME = 2  # of a process: a decoded picture takes up to 250 MB
_REDIRECT_SECONDS = 300


def make_blueprint(
    signer: FileSigner, storage: ImageStorage, clock: Callable[[], float] = time.time
) -> APIBlueprint:
    """`GET /files/…`; `clock` gives Unix seconds."""
    bp = APIBlueprint("files", __name__, abp_tags=[tag("images")])
    thumbnails = _Thumbnails(storage)

    @bp.get(
        "/files/<task_id>/<file>",
        summary="Load a finished image",
        operation_id="load_image",
        responses={**_PICTURES, **errors(400, 403, 404, 416, 503)},
    )
    def load_image(path: FilePath, query: FileQuery) -> Response:
        name = f"{path.task_id}/{path.file}"
        left = _seconds_left(signer, name, query, clock())
        if _FILE.fullmatch(path.file) is None:
            raise _gone()
        side = _thumbnail_side(query.thumbnail)
        saving = _is_download(query.download)
        if side is None and not saving and (elsewhere := _redirect(storage, name, left)):
            return elsewhere
        found = storage.pieces(name) if side is None else thumbnails.get(name, side)
        if found is None:
            raise _gone()
        length, pieces = found
        index, _, kind = path.file.partition(".")
        shown = f"{path.task_id}-{path.file}"
        if side is not None:
            kind, shown = "webp", f"{path.task_id}-{index}.{side}.webp"
        response = Response(pieces, mimetype=f"image/{kind}")
        response.content_length = length
        # A name is never given to other bytes, so it can stand for them.
        response.set_etag(hashlib.sha256(f"{name}?{side}".encode()).hexdigest()[:32])
        response.headers.update(_headers(shown, left, saving=saving))
        response.make_conditional(request, accept_ranges=True, complete_length=length)
        return response

    return bp


_PICTURE = {
    f"image/{kind}": {"schema": {"type": "string", "contentMediaType": f"image/{kind}"}}
    for kind in ("png", "jpeg", "webp")
}
_PICTURES: ResponseDict = {
    200: {"description": "The image, or its thumbnail.", "content": _PICTURE},
    206: {"description": "The bytes that Range asked for.", "content": _PICTURE},
    304: {"description": "Not changed since If-None-Match."},
    307: {
        "description": "The image is in a bucket, at `Location`, for a few minutes: "
        "`STORAGE_REDIRECT`.",
        "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
    },
}


def _seconds_left(signer: FileSigner, name: str, query: FileQuery, now: float) -> int:
    expires, signature = query.expires or "", query.signature or ""
    # Said twice, a cache before us may take the other one for what was signed.
    twice = any(len(request.args.getlist(name)) > 1 for name in ("expires", "signature"))
    if not (
        not twice
        and _NUMBER.fullmatch(expires)
        and signature.isascii()
        and signer.verifies(name, expires, signature)
    ):
        raise ApiError("invalid_signature", "The address of the image is not complete or changed.")
    if int(expires) <= now:
        raise ApiError("invalid_signature", "The address of the image has expired.")
    return int(int(expires) - now)


def _gone() -> ApiError:
    return ApiError("not_found", "The image is not stored any more.")


def _thumbnail_side(text: str | None) -> int | None:
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None or int(text) not in _THUMBNAIL_SIDES:
        raise ApiError(
            "invalid_value", "thumbnail must be a number of pixels, 16 to 1024.", param="thumbnail"
        )
    return int(text)


def _is_download(text: str | None) -> bool:
    if text not in (None, "1"):
        raise ApiError("invalid_value", "download can only be 1.", param="download")
    return text is not None


def _redirect(storage: ImageStorage, name: str, left: int) -> Response | None:
    """The way to the image in its bucket, for no longer than our own address has `left`."""
    seconds = min(_REDIRECT_SECONDS, left)
    if not seconds:
        return None
    address = storage.address(name, "HEAD" if request.method == "HEAD" else "GET", seconds)
    if address is None:
        return None
    response = Response(status=307, headers={"Location": address})
    # Whoever keeps this may still begin to load when half of the time is over.
    response.headers["Cache-Control"] = f"private, max-age={seconds // 2}"
    return response


class _Thumbnails:
    """Makes small pictures when they are asked for, and keeps those that are asked for often."""

    def __init__(self, storage: ImageStorage) -> None:
        self._storage = storage
        self._gate = threading.BoundedSemaphore(_AT_A_TIME)

    def get(self, name: str, side: int) -> tuple[int, Iterable[bytes]] | None:
        """The image `name` made small, as WebP: its length, and its bytes. None when there is no
        such image."""
        kept = f"{name}.{side}.webp"
        if side in _KEPT_SIDES and (found := self._storage.pieces(kept)) is not None:
            return found
        data = self._storage.get(name)
        if data is None:
            return None
        with self._gate:
            small = off_the_hub(lambda: _shrink(data, side))
        if side in _KEPT_SIDES:
            with contextlib.suppress(StoreUnavailable):  # no room: it is made again the next time
                self._storage.put(kept, small)
        return len(small), [small]


def _shrink(data: bytes, side: int) -> bytes:
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
        image.thumbnail((side, side))
        small = image.point(lambda grey: grey / 256).convert("L") if image.mode == "I;16" else image
        out = io.BytesIO()
        small.convert("RGBA" if image.has_transparency_data else "RGB").save(out, "WEBP")
    return out.getvalue()


def _headers(name: str, left: int, *, saving: bool) -> dict[str, str]:
    how = "attachment" if saving else "inline"
    return {
        "Cache-Control": f"private, max-age={left}, immutable",
        "Content-Disposition": f'{how}; filename="{name}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
