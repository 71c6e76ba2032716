"""`flask --app api.wsgi keys …`: who may use the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from flask.cli import AppGroup

from common.errors import StoreUnavailable
from common.keys import ApiKey, KeyStore

__all__ = ["make_commands"]

_DAY = 24 * 3600


def make_commands(keys: KeyStore, clock: Callable[[], float] = time.time) -> AppGroup:
    """The `keys` commands; `clock` gives Unix seconds."""
    group = AppGroup("keys", help="Create, list and revoke API keys.")

    @group.command("create", help="Make a new key and print it: it cannot be shown again.")
    @click.argument("name")
    @click.option(
        "--expires-days", type=click.FloatRange(0, 36500, min_open=True), help="Days until it ends."
    )
    def create(name: str, expires_days: float | None) -> None:
        expires = None if expires_days is None else int(clock() + expires_days * _DAY)
        with _plain_errors():
            key, plain = keys.create(name, expires=expires)
        click.echo(f"{key.id}  {key.name}  {_state(key, clock())}", err=True)
        click.echo(plain)

    @group.command("list", help="Show all keys, without their secret.")
    def list_() -> None:
        with _plain_errors():
            known = keys.list()
        for key in known:
            click.echo(f"{key.id}  {_day(key.created)}  {_state(key, clock())}  {key.name}")
        if not known:
            click.echo("There are no keys. Make one: flask --app api.wsgi keys create NAME")

    @group.command("revoke", help="Refuse a key from now on, within seconds everywhere.")
    @click.argument("key_id")
    def revoke(key_id: str) -> None:
        with _plain_errors():
            key = keys.revoke(key_id)
        if key is None:
            raise click.ClickException(f"There is no key {key_id}; `keys list` shows the ids.")
        click.echo(f"{key.id}  {key.name}  {_state(key, clock())}")

    return group


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise click.ClickException(f"{error} Is REDIS_URL right, and is it running?") from error


def _state(key: ApiKey, now: float) -> str:
    if key.revoked is not None:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return "valid"
    return f"{'expired' if key.expired(now) else 'valid until'} {_day(key.expires)}"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
