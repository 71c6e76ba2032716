"""Fetches an image from an address that a caller named: hostile until shown otherwise."""

from __future__ import annotations

import threading
import time
from urllib.parse import urldefrag, urljoin

import requests

from common.addresses import host_of
from common.errors import DarkroomError
from common.hub import at_most
from common.transport import Answer, Forbidden, TooLarge, Transport, Trouble

__all__ = ["FETCH_SECONDS", "CannotFetch", "Remote"]

FETCH_SECONDS = 10.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3
_MOST_CHARACTERS = 8000
_AT_A_TIME = 8  # of a process: each may hold the whole of an image
# One answer for both: a caller must not learn which names stand for something in a private network.
_NOT_PUBLIC = "its host is not known or not public"
_NOT_KNOWN = "its host name is not known"  # as the transport says it
_HEADERS = {"User-Agent": "darkroom", "Accept": "image/*", "Accept-Encoding": "identity"}


class CannotFetch(DarkroomError):
    """The text says why, to go on after a name: "answered with 404". It never names the address."""


class Remote:
    """Visits public https addresses only, and looks at each redirect as at the first.

    A host is looked up once, all addresses it stands for have to be public, and it is connected to
    one of exactly these: what it stands for a moment later is of no account. No proxy of the
    environment is used, for it would look the host up by itself.
    """

    def __init__(self, *, max_bytes: int, transport: Transport | None = None) -> None:
        self._max_bytes = max_bytes
        self._transport = transport or Transport(_AT_A_TIME, guarded=True)
        self._places = threading.BoundedSemaphore(_AT_A_TIME)

    def fetch(self, url: str, *, deadline: float) -> bytes:
        """What is at `url`, all of it until `deadline`, an instant of `time.monotonic()`.

        Raises CannotFetch.
        """
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise CannotFetch("could not be fetched in time")
        try:
            # The look-up of a host name knows no time-out of its own.
            with at_most(deadline - time.monotonic()):
                return self._follow(url, deadline)
        except TooLarge as error:
            raise CannotFetch(f"is larger than {self._max_bytes} bytes") from error
        except Forbidden as error:
            # A caller must not learn which names stand for something in a private network.
            raise CannotFetch(
                "could not be fetched: its host is not known or not public"
            ) from error
        except Trouble as trouble:
            why = _NOT_PUBLIC if str(trouble) == _NOT_KNOWN else trouble
            raise CannotFetch(f"could not be fetched: {why}") from trouble
        except TimeoutError as error:
            raise CannotFetch("could not be fetched: the time was up") from error
        finally:
            self._places.release()

    def _follow(self, url: str, deadline: float) -> bytes:
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._transport.exchange(
                _prepared(url), deadline=deadline, limit=self._max_bytes
            )
            if answer.status not in _REDIRECTS:
                return _content(answer)
            url = _redirected(url, answer.headers.get("Location", ""))
        raise CannotFetch(f"is more than {_MOST_REDIRECTS} redirects away")


def _prepared(url: str) -> requests.PreparedRequest:
    try:
        host = host_of(url, private=False, longest=_MOST_CHARACTERS)
    except ValueError as reason:
        raise CannotFetch(str(reason)) from reason
    try:
        request = requests.Request("GET", url, headers=_HEADERS).prepare()
        # Looked at once more, as it will be used: no second reading of it may differ.
        if host_of(str(request.url), private=False, longest=3 * _MOST_CHARACTERS) == host:
            return request
    except ValueError:  # with all its kin in requests, and of IDNA and ports
        pass
    raise CannotFetch("has an address that cannot be used")


def _redirected(url: str, location: str) -> str:
    try:
        return urldefrag(urljoin(url, location)).url
    except ValueError as error:
        raise CannotFetch("is redirected to what is no URL") from error


def _content(answer: Answer) -> bytes:
    if not answer.ok:
        raise CannotFetch(f"could not be fetched: its host answered {answer.status}")
    if not answer.body:
        raise CannotFetch("could not be fetched: its host sent nothing")
    return answer.body
