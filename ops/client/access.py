"""Which server is asked, and with which key."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ops.client.errors import WrongUse

__all__ = ["Access", "find_access"]

_ROOT = Path(__file__).resolve().parents[2]
_USUAL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Access:
    """A server's address, with no slash at its end, and the key for it.

    `key` is empty when there is none; `origin` says where it was found.
    """

    address: str
    key: str = field(repr=False)
    origin: str

    @property
    def in_the_clear(self) -> bool:
        """Whether the key goes through a network unencrypted."""
        return bool(self.key) and self.address.startswith("http:") and not _is_here(self.address)


def find_access(
    server: str | None, key_file: Path | None, environment: Mapping[str, str]
) -> Access:
    """What the options say, else the environment, else what `ops/run` left in its data directory.

    The key found there is for a server on this machine only. Raises WrongUse.
    """
    data = Path(environment.get("DATA_DIR") or _ROOT / "data")
    address = _checked(server or environment.get("DARKROOM_URL") or _announced(data) or _USUAL)
    if key_file is not None:
        return Access(address, _read_key(key_file), str(key_file))
    if key := environment.get("DARKROOM_API_KEY"):
        return Access(address, _checked_key(key, "DARKROOM_API_KEY"), "DARKROOM_API_KEY")
    kept = data / "api_key"
    if _is_here(address) and kept.exists():
        return Access(address, _read_key(kept), str(kept))
    return Access(address, "", "")


def _announced(data: Path) -> str | None:
    """Where the `ops/run` that works in this directory answers."""
    try:
        return str(json.loads((data / "run.json").read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none runs


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise WrongUse(
            f"{address!a} is no address of a server; it should be like https://pictures.example.com"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise WrongUse(
            "The address of the server must have no user, query or fragment; "
            "the key is read from DARKROOM_API_KEY or --key-file."
        )
    # What libraries for OpenAI's API are given ends with it.
    return address.rstrip("/").removesuffix("/v1")


def _is_here(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_key(file: Path) -> str:
    try:
        return _checked_key(file.read_text("utf-8"), str(file))
    except OSError as error:
        raise WrongUse(f"The key cannot be read from {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WrongUse(f"{file} holds no key.") from error


def _checked_key(text: str, origin: str) -> str:
    """The key, which must fit into a header. What it is, is never said."""
    key = text.strip()
    if not key or " " in key or not (key.isascii() and key.isprintable()):
        raise WrongUse(f"{origin} holds no key: one word, such as sk-… is expected.")
    return key
