"""`flask --app api.wsgi keys …`: who may use the gateway, and how much of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from flask.cli import AppGroup

from common.catalog import Catalog
from common.errors import StoreUnavailable
from common.keys import ApiKey, KeyStore
from common.limits import UNLIMITED, Limits, Usage
from common.outbox import WebhookSecrets
from common.store import TaskStore

__all__ = ["make_commands", "plain_errors"]

_DAY = 24 * 3600
_NONE = object()
_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._:-]{0,63}")


class _OrNone(click.ParamType[Any]):
    """What another type takes, or the word `none`, which takes a limit away."""

    def __init__(self, of: click.ParamType[Any], name: str) -> None:
        self._of = of
        self.name = name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is _NONE or str(value).lower() == "none":
            return _NONE
        converted = self._of.convert(value, param, ctx)
        if converted != converted:  # NaN is within every range
            self.fail(f"{value!r} is not a number.", param, ctx)
        return converted


class _Models(click.ParamType[Any]):
    """Ids of models, with commas between them."""

    name = "models"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        patterns = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        for pattern in patterns:
            if _PATTERN.fullmatch(pattern) is None:
                self.fail(
                    f"{pattern!r} is neither the id of a model nor a pattern such as flux-*; write "
                    "several with commas between them.",
                    param,
                    ctx,
                )
        return patterns


_MILLION = 1_000_000
_OPTIONS = (
    click.option(
        "--expires-days",
        type=_OrNone(click.FloatRange(0, 36500, min_open=True), "days"),
        help="Days until it ends.",
    ),
    click.option(
        "--models",
        type=_OrNone(_Models(), "models"),
        help='Ids of models, and patterns: "dall-e-3,flux-*".',
    ),
    click.option(
        "--requests-per-minute",
        type=_OrNone(click.IntRange(1, _MILLION), "integer"),
        help="Submits in a minute; polls never count.",
    ),
    click.option(
        "--tasks-in-flight",
        type=_OrNone(click.IntRange(1, _MILLION), "integer"),
        help="Tasks that are not final.",
    ),
    click.option(
        "--images-per-day",
        type=_OrNone(click.IntRange(1, _MILLION), "integer"),
        help="Images in a day of UTC.",
    ),
    click.option(
        "--usd-per-month",
        type=_OrNone(click.FloatRange(0, _MILLION), "dollars"),
        help="US dollars in a calendar month of UTC.",
    ),
)


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_commands(
    keys: KeyStore,
    secrets: WebhookSecrets,
    store: TaskStore,
    catalog: Catalog,
    clock: Callable[[], float] = time.time,
) -> AppGroup:
    """The `keys` commands; `clock` gives Unix seconds."""
    group = AppGroup("keys", help="Create, list, limit and revoke API keys.")

    @group.command("create", help="Make a new key and print it: it cannot be shown again.")
    @click.argument("name")
    @click.option("--admin", is_flag=True, help="An operator's: for /admin, and nothing else.")
    @_limit_options
    def create(name: str, admin: bool, **options: Any) -> None:
        new = _changed(ApiKey("", name, 0), options, clock())
        if admin and new.limits != UNLIMITED:
            raise click.UsageError(
                "An operator's key submits nothing; of the limits --expires-days alone goes with "
                "--admin."
            )
        with plain_errors():
            key, plain = keys.create(name, expires=new.expires, limits=new.limits, admin=admin)
        click.echo(f"{key.id}  {key.name}  {_state(key, clock())}{_limits(key.limits)}", err=True)
        warn(key)
        click.echo(plain)

    @group.command(
        "limit", help="Change limits of a key, within seconds everywhere; `none` takes one away."
    )
    @click.argument("key_id")
    @_limit_options
    def limit(key_id: str, **options: Any) -> None:
        if all(value is None for value in options.values()):
            raise click.UsageError("No limit was given; `keys limit --help` shows them.")
        now = clock()
        with plain_errors():
            key = keys.change(key_id, lambda key: _changed(key, options, now))
        key = known(key, key_id)
        click.echo(f"{key.id}  {key.name}  {_state(key, now)}{_limits(key.limits)}")
        warn(key)

    @group.command("list", help="Show all keys and what they have used, without their secret.")
    def list_() -> None:
        with plain_errors():
            found = [(key, store.usage(key.id)) for key in keys.list()]
        for key, usage in found:
            click.echo(
                f"{key.id}  {_day(key.created)}  {_state(key, clock())}  {_used(usage)}"
                f"{_limits(key.limits)}  {key.name}"
            )
        if not found:
            click.echo("There are no keys. Make one: flask --app api.wsgi keys create NAME")

    @group.command("show", help="Show one key: its limits and what it has used, by model.")
    @click.argument("key_id")
    def show(key_id: str) -> None:
        with plain_errors():
            key = known(keys.get(key_id), key_id)
            usage = store.usage(key.id, key.limits)
        for line in _description(key, usage, clock()):
            click.echo(line)

    @group.command("revoke", help="Refuse a key from now on, within seconds everywhere.")
    @click.argument("key_id")
    def revoke(key_id: str) -> None:
        with plain_errors():
            key = known(keys.revoke(key_id), key_id)
        click.echo(f"{key.id}  {key.name}  {_state(key, clock())}")

    @group.command("webhook-secret", help="Show what the webhooks of a key are signed with.")
    @click.argument("key_id")
    @click.option(
        "--rotate", is_flag=True, help="Make a new one; the old one signs as well for 24 hours."
    )
    @click.option("--at-once", is_flag=True, help="With --rotate: the old one ends now.")
    def webhook_secret(key_id: str, rotate: bool, at_once: bool) -> None:
        if at_once and not rotate:
            raise click.UsageError("--at-once says how to --rotate.")
        with plain_errors():
            known(keys.get(key_id), key_id)
            if at_once:
                signing = secrets.rotate(key_id, keep=0)
            else:
                signing = secrets.rotate(key_id) if rotate else secrets.of(key_id)
        if len(signing) > 1:
            click.echo("An old one signs beside it for up to 24 hours.", err=True)
        click.echo(signing[0])

    def known(key: ApiKey | None, key_id: str) -> ApiKey:
        if key is None:
            raise click.ClickException(f"There is no key {key_id}; `keys list` shows the ids.")
        return key

    def warn(key: ApiKey) -> None:
        for pattern in key.limits.models:
            if not any(Limits((pattern,)).allows(model.id) for model in catalog):
                click.echo(f"Note: {pattern} matches no model of the catalog.", err=True)

    return group


def _changed(key: ApiKey, options: Mapping[str, Any], now: float) -> ApiKey:
    """The key with what the options say; one that was not given (None) changes nothing."""
    given = {name: value for name, value in options.items() if value is not None}
    if (days := given.pop("expires_days", None)) is not None:
        key = replace(key, expires=None if days is _NONE else int(now + days * _DAY))
    limits: dict[str, Any] = {
        name: (() if name == "models" else None) if value is _NONE else value
        for name, value in given.items()
    }
    return replace(key, limits=replace(key.limits, **limits))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say that Redis is away as a sentence, and end the command."""
    try:
        yield
    except StoreUnavailable as error:
        raise click.ClickException(f"{error} Is REDIS_URL right, and is it running?") from error


def _state(key: ApiKey, now: float) -> str:
    return f"operator, {_validity(key, now)}" if key.admin else _validity(key, now)


def _validity(key: ApiKey, now: float) -> str:
    if key.revoked is not None:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return "valid"
    return f"{'expired' if key.expired(now) else 'valid until'} {_day(key.expires)}"


def _limits(limits: Limits) -> str:
    """The limits that are set, to be put behind something else."""
    set_ = {"models": ",".join(limits.models)} if limits.models else {}
    numbers = {
        "requests/minute": limits.requests_per_minute,
        "in flight": limits.tasks_in_flight,
        "images/day": limits.images_per_day,
        "$/month": limits.usd_per_month,
    }
    set_ |= {name: f"{limit:g}" for name, limit in numbers.items() if limit is not None}
    return "".join(f"  {name} {limit}" for name, limit in set_.items())


def _used(usage: Usage) -> str:
    month, today = usage.month.total, usage.today.total
    return f"${month.spend_usd:.2f} this month, {today.images} images today"


def _description(key: ApiKey, usage: Usage, now: float) -> Iterable[str]:
    limits, month, today = key.limits, usage.month, usage.today
    spend = month.total

    def of(limit: float | None) -> str:
        return "no limit" if limit is None else f"of {limit:g}"

    left = "" if usage.requests_left is None else f"{usage.requests_left} left, "
    yield f"{key.id}  {key.name}"
    yield f"state            {_state(key, now)}, created {_day(key.created)}"
    yield f"models           {', '.join(limits.models) or 'all'}"
    yield f"requests/minute  {left}{of(limits.requests_per_minute)}"
    yield f"tasks in flight  {usage.open_tasks}, {of(limits.tasks_in_flight)}"
    yield f"images today     {today.total.images}, {of(limits.images_per_day)}"
    yield (
        f"$ this month     {spend.spend_usd:.4f} (estimated: {spend.estimated_usd:.4f}), "
        f"{of(limits.usd_per_month)}"
    )
    for model, used in month.models.items():
        unpriced = f", {used.unpriced_images} without a price" if used.unpriced_images else ""
        yield f"  {model}: {used.images} images, ${used.spend_usd:.4f}{unpriced}"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
