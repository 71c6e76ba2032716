"""The pages at `/` and `/admin`, for people: plain files that speak to the API like any other
client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flask import Blueprint, Response, jsonify, request, send_from_directory

__all__ = ["make_blueprint"]

_FILES = Path(__file__).parent / "static"

# Nothing inline, nothing from elsewhere, in nobody's frame. Pictures are loaded from this host, or
# from the bucket that it leads to; `data:` is for those that were asked for in Base64.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:{bucket}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address of a page must not tell where a key was used
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, so that no page is half an old one
}


def make_blueprint(version: str, bucket: Callable[[], str]) -> Blueprint:
    """`GET /`: the page for whoever prefers HTML, a few words in JSON for others; `GET /admin`, the
    one for operators; and their files.

    `bucket` gives the origin that addresses of images lead to, empty where they do not.
    """
    bp = Blueprint("playground", __name__, static_folder=str(_FILES), static_url_path="/playground")

    @bp.get("/")
    def root() -> Response:
        accepted = request.accept_mimetypes
        if accepted["text/html"] > accepted["application/json"]:
            response = send_from_directory(_FILES, "index.html")
        else:
            response = jsonify(
                {
                    "name": "Darkroom",
                    "version": version,
                    "docs": "/docs",
                    "openapi": "/openapi.json",
                    "models": "/v1/models",
                    "llms": "/llms.txt",
                }
            )
        response.vary.add("Accept")
        return response

    @bp.get("/admin")
    def admin() -> Response:
        return send_from_directory(_FILES, "admin.html")

    @bp.after_request
    def guard(response: Response) -> Response:
        response.headers.update(_HEADERS)
        origin = bucket()
        policy = _POLICY.format(bucket=f" {origin}" if origin else "")
        response.headers["Content-Security-Policy"] = policy
        return response

    return bp
