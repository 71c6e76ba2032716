"""Finished images: their signed addresses, and the view that serves them.

An address works without a key, so that an `<img>` tag can load it, until the task expires. It
needs neither the record nor Redis: everything that matters is in the signature.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Callable
from functools import partial

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.types import ResponseDict
from PIL import Image

from api.errors import ApiError
from api.openapi import errors, tag
from api.schemas import FilePath, FileQuery
from common.file_signer import FileSigner
from common.hub import give_way, off_the_hub
from common.storage import ImageStorage

__all__ = ["make_blueprint"]

_FILE = re.compile(r"[0-9]{1,3}\.(png|jpeg|webp)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_THUMBNAIL_SIDES = range(16, 1025)


def make_blueprint(
    signer: FileSigner, storage: ImageStorage, clock: Callable[[], float] = time.time
) -> APIBlueprint:
    """`GET /files/…`; `clock` gives Unix seconds."""
    bp = APIBlueprint("files", __name__, abp_tags=[tag("images")])

    @bp.get(
        "/files/<task_id>/<file>",
        summary="Load a finished image",
        operation_id="load_image",
        responses={**_PICTURES, **errors(400, 403, 404, 416, 503)},
    )
    def load_image(path: FilePath, query: FileQuery) -> Response:
        give_way()  # a page of thumbnails asks for all of them at once
        name = f"{path.task_id}/{path.file}"
        left = _seconds_left(signer, name, query, clock())
        if _FILE.fullmatch(path.file) is None:
            raise _gone()
        side = _thumbnail_side(query.thumbnail)
        data = storage.get(name)
        if data is None:
            raise _gone()
        kind = path.file.rpartition(".")[2]
        if side is not None:
            data = off_the_hub(partial(_thumbnail, data, kind, side))
        response = Response(data, mimetype=f"image/{kind}")
        # A name is never given to other bytes, so it can stand for them.
        response.set_etag(hashlib.sha256(f"{name}?{side}".encode()).hexdigest()[:32])
        response.headers.update(_headers(path.task_id, path.file, left))
        response.make_conditional(request, accept_ranges=True, complete_length=len(data))
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


def _thumbnail(data: bytes, kind: str, side: int) -> bytes:
    with Image.open(io.BytesIO(data), formats=[kind.upper()]) as image:
        image.thumbnail((side, side))
        out = io.BytesIO()
        image.save(out, kind.upper())
    return out.getvalue()


def _headers(task_id: str, file: str, left: int) -> dict[str, str]:
    return {
        "Cache-Control": f"private, max-age={left}, immutable",
        "Content-Disposition": f'inline; filename="{task_id}-{file}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
