"""The HTTP API of a Darkroom server, asked again where that can help and costs nothing."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urljoin

import requests
from requests.auth import AuthBase

from ops.client.access import Access
from ops.client.errors import ClientError, NotSaved, Refused, Unreachable, WrongUse
from ops.client.screen import plain

__all__ = ["HOLD", "File", "Server"]

HOLD = 1  # seconds that a poll is held: how often progress is seen

_CONNECT = 10  # seconds
_ANSWER = 30  # seconds, beyond those that the request is held
_UPLOAD = 300  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds between tries

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

# What may be different the next time, without anything having happened.
_LOST = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)

# Name, bytes and kind of a file in a form.
File = tuple[str, bytes, str]


class Server:
    """Asks one server. What it cannot answer now is asked again, for up to `patience` seconds.

    `notice` is told why. All methods raise Refused, and Unreachable when patience has run out.
    """

    def __init__(self, access: Access, *, patience: float, notice: Callable[[str], None]) -> None:
        self._access = access
        self._patience = patience
        self._notice = notice
        self._session = requests.Session()
        # An object, and no header: that would give way to an entry for the host in ~/.netrc.
        self._session.auth = _Key(access.key)
        self._session.headers["User-Agent"] = "darkroom-client"

    def submit(
        self, fields: Mapping[str, Any], files: Sequence[tuple[str, File]], name: str
    ) -> dict[str, Any]:
        """A new task, one however often this is tried: `name` is its Idempotency-Key."""
        headers = {"Idempotency-Key": name}
        if not files:
            path = "/v1/images/generations"
            return self._task(self._ask("POST", path, json=fields, headers=headers))
        answer = self._ask(
            "POST",
            "/v1/images/edits",
            data=fields,
            files=list(files),
            headers=headers,
            timeout=_UPLOAD,
        )
        return self._task(answer)

    def task(self, task_id: str, *, held: bool = False) -> dict[str, Any]:
        """A task as it is now; `held`: as it is in HOLD seconds, or sooner once it is over."""
        query = {"wait": HOLD} if held else {}
        return self._task(self._ask("GET", _path(task_id), params=query))

    def cancel(self, task_id: str) -> dict[str, Any]:
        """The task, cancelled or about to be."""
        return self._task(self._ask("DELETE", _path(task_id)))

    def tasks(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """A page of the caller's tasks."""
        return self._list(self._ask("GET", "/v1/tasks", params=query))

    def models(self) -> dict[str, Any]:
        """All models. Needs no key."""
        return self._list(self._ask("GET", "/v1/models", needs_key=False))

    def model(self, model_id: str) -> dict[str, Any]:
        """One model. Needs no key."""
        answer = self._ask("GET", f"/v1/models/{quote(model_id, safe='')}", needs_key=False)
        if not isinstance(answer.get("image"), dict):
            raise self._stranger()
        return answer

    def picture(self, address: str) -> bytes:
        """The bytes of a picture. Its address is all it takes: the key is shown to nobody.

        Raises NotSaved when there is no picture at this address.
        """
        where = urljoin(f"{self._access.address}/", address)
        response = self._persist(
            lambda: self._session.get(where, auth=_Key(""), timeout=(_CONNECT, _ANSWER))
        )
        kind = response.headers.get("Content-Type", "bytes of no kind")
        if not response.ok:
            raise NotSaved(f"The picture could not be loaded: {_said(response)}")
        if not kind.startswith("image/") or not response.content:
            raise NotSaved(
                f"What was loaded is no picture, but {len(response.content)} bytes of {plain(kind)}"
            )
        return response.content

    def _ask(
        self,
        method: str,
        path: str,
        *,
        needs_key: bool = True,
        timeout: float = _ANSWER,
        **request: Any,
    ) -> dict[str, Any]:
        if needs_key and not self._access.key:
            raise WrongUse(
                f"There is no key for {self._access.address}: set DARKROOM_API_KEY, or name a file "
                "that holds it with --key-file."
            )
        response = self._persist(
            lambda: self._session.request(
                method,
                self._access.address + path,
                timeout=(_CONNECT, timeout),
                allow_redirects=False,  # a POST would become a GET
                **request,
            )
        )
        body = _document(response)
        if response.is_redirect:
            there = plain(response.headers["Location"])
            raise Unreachable(f"The server sends us on to {there}: use that as --server.")
        if response.ok and body is not None:
            return body
        if body is None or not isinstance(body.get("error"), dict):
            raise self._stranger(response)
        text = _said(response)
        if response.status_code == 401:
            text += f"\n  The key is from {self._access.origin}."
        raise Refused(text, body)

    def _persist(self, send: Callable[[], requests.Response]) -> requests.Response:
        """An answer that will not be another one soon."""
        ends, pause, told = 0.0, _FIRST_PAUSE, ""
        failure: ClientError
        while True:
            again: float | None = None  # seconds, when the server has said them
            try:
                response = send()
            except _LOST as error:
                reason = _reason(error)
                failure = Unreachable(f"{self._access.address} does not answer: {reason}.")
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise failure from error
            except requests.RequestException as error:
                raise Unreachable(f"{self._access.address} cannot be asked: {error}") from error
            else:
                if not _is_passing(response):
                    if told:
                        self._notice("The server answers again.")
                    return response
                again = _retry_after(response)
                kind = Unreachable if response.status_code in (500, 502, 503, 504) else Refused
                failure = kind(_said(response), _document(response))
            ends = ends or time.monotonic() + self._patience
            wait = pause * random.uniform(0.5, 1) if again is None else again  # noqa: S311
            if time.monotonic() + wait > ends:
                raise failure
            when = "Trying again" if again is None else f"Trying again in {again:g} s"
            if (text := f"{failure} {when}, for {self._patience:g} s at most.") != told:
                self._notice(text)
            told = text
            time.sleep(wait)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _task(self, body: dict[str, Any]) -> dict[str, Any]:
        if not (
            _ID.fullmatch(str(body.get("id")))  # it becomes a part of file names
            and isinstance(body.get("status"), str)
            and isinstance(body.get("data"), list)
        ):
            raise self._stranger()
        return body

    def _list(self, body: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(body.get("data"), list):
            raise self._stranger()
        return body

    def _stranger(self, response: requests.Response | None = None) -> Unreachable:
        said = f" ({response.status_code} {plain(response.reason)})" if response is not None else ""
        return Unreachable(
            f"{self._access.address} does not answer as Darkroom does{said}. "
            "Is --server, or DARKROOM_URL, right?"
        )


class _Key(AuthBase):
    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _path(task_id: str) -> str:
    return f"/v1/tasks/{quote(task_id, safe='')}"


def _is_passing(response: requests.Response) -> bool:
    """Whether the same request may have another answer soon.

    409, 429 and 503 say so themselves; what else begins with 5 is an accident, on the way perhaps.
    """
    if response.status_code in (409, 429):
        return _retry_after(response) is not None
    if response.status_code == 503 and _document(response) is not None:
        return _retry_after(response) is not None
    return response.status_code >= 500


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 8 else None


def _document(response: requests.Response) -> dict[str, Any] | None:
    try:
        body = response.json()
    except requests.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _said(response: requests.Response) -> str:
    """An error in words: what it is, and below it what would help."""
    body = _document(response) or {}
    error = body.get("error")
    if not isinstance(error, dict):
        return f"The server answers {response.status_code} {plain(response.reason)}."
    about = [f"{response.status_code} {plain(error.get('code'))}"]
    if error.get("param"):
        about.append(f"field {plain(error['param'])}")
    lines = [f"{plain(error.get('message'))} ({', '.join(about)})"]
    if error.get("did_you_mean"):
        lines.append(f"Did you mean {plain(error['did_you_mean'])}?")
    if error.get("hint"):
        lines.append(plain(error["hint"]))
    others = body.get("validation_errors")
    lines += [
        f"{plain(other.get('message'))} (field {plain(other.get('field'))})"
        for other in (others if isinstance(others, list) else [])
        if isinstance(other, dict) and other.get("message") != error.get("message")
    ]
    return "\n  ".join(lines)


def _reason(error: BaseException) -> str:
    """Why nobody answered, without the names of the libraries that noticed."""
    if isinstance(error, requests.ReadTimeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.rstrip(".")
        cause = cause.__cause__ or cause.__context__
    return "the connection was lost"
