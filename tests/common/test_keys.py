"""API keys: kept as hashes, remembered for a moment, revoked for good."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from common.connection import connect
from common.errors import StoreUnavailable
from common.keys import ApiKey, KeyStore
from common.limits import Limits
from tests.valkey import Valkey, close, running_valkey

PLAIN = "sk-test-0123456789abcdef"


class Clock:
    """Stands still until it is told to move. In seconds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(valkey: Valkey, clock: Callable[[], float]) -> KeyStore:
    return KeyStore(valkey.redis, remember=5, clock=clock)


def test_a_new_key_is_found_by_its_plain_text_only(keys: KeyStore) -> None:
    key, plain = keys.create("Ann")

    assert plain.startswith("sk-")
    assert len(plain) > 40
    assert keys.find(plain) == key
    assert key.name == "Ann"
    assert keys.find(key.id) is None
    assert keys.find(plain + "x") is None
    assert keys.find("") is None


def test_the_plain_text_is_nowhere_in_redis(keys: KeyStore, valkey: Valkey) -> None:
    _, plain = keys.create("Ann")

    everything = {name: valkey.redis.hgetall(name) for name in valkey.redis.scan_iter()}

    assert everything
    assert plain not in str(everything)
    assert plain.removeprefix("sk-") not in str(everything)


def test_ensuring_a_key_twice_makes_it_once(keys: KeyStore) -> None:
    first = keys.ensure(PLAIN, "first")
    second = keys.ensure(PLAIN, "second")

    assert first == second
    assert keys.list() == [first]


def test_a_revoked_key_is_not_made_good_by_ensuring_it_again(keys: KeyStore) -> None:
    key = keys.ensure(PLAIN, "first")
    keys.revoke(key.id)

    assert keys.ensure(PLAIN, "again").revoked is not None


def test_a_revoked_key_works_as_long_as_it_is_remembered_and_no_longer(
    keys: KeyStore, clock: Clock
) -> None:
    key = keys.ensure(PLAIN, "Ann")
    assert keys.find(PLAIN) == key

    revoked = keys.revoke(key.id)
    clock.now += 4.9
    remembered = keys.find(PLAIN)
    clock.now += 0.2
    asked_again = keys.find(PLAIN)

    assert remembered == key
    assert asked_again == revoked
    assert revoked is not None
    assert revoked.revoked is not None


def test_limits_are_kept_with_the_key(keys: KeyStore) -> None:
    limits = Limits(("flux-*",), 60, 10, 100, 12.5)
    key, plain = keys.create("Ann", limits=limits)

    found = keys.find(plain)

    assert found == key
    assert found.limits == limits
    assert keys.list() == [key]


def test_only_a_key_that_was_made_for_operators_is_theirs(keys: KeyStore) -> None:
    _, ordinary = keys.create("Ann")
    _, operators = keys.create("Ann", admin=True)

    assert [key.admin for plain in (ordinary, operators) if (key := keys.find(plain))] == [
        False,
        True,
    ]
    assert not keys.ensure(ordinary, "Ann", admin=True).admin  # it is one already


def test_a_key_from_before_there_were_limits_has_none(keys: KeyStore, valkey: Valkey) -> None:
    digest = hashlib.sha256(PLAIN.encode()).hexdigest()
    entry = {"id": "key_old", "name": "Ann", "created": 1, "expires": None, "revoked": None}
    valkey.redis.hset("darkroom:keys", digest, json.dumps(entry))

    assert keys.find(PLAIN) == ApiKey("key_old", "Ann", 1)
    changed = keys.change("key_old", lambda key: replace(key, limits=Limits(images_per_day=3)))
    assert changed is not None
    assert changed.limits == Limits(images_per_day=3)
    assert keys.list() == [changed]


def test_a_change_of_limits_does_not_undo_a_revocation_in_between(keys: KeyStore) -> None:
    key = keys.ensure(PLAIN, "Ann")
    times = []

    def limit(current: ApiKey) -> ApiKey:
        if not times:  # somebody else is quicker
            keys.revoke(key.id)
        times.append(current)
        return replace(current, limits=Limits(tasks_in_flight=1))

    changed = keys.change(key.id, limit)

    assert changed is not None
    assert changed.revoked is not None
    assert changed.limits == Limits(tasks_in_flight=1)
    assert keys.list() == [changed]


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [
        ((), ["flux-pro", "dall-e-3", "x"]),
        (("flux-pro",), ["flux-pro"]),
        (("flux-*", "x"), ["flux-pro", "x"]),
        (("*",), ["flux-pro", "dall-e-3", "x"]),
        (("*-3",), ["dall-e-3"]),
        (("FLUX-*",), []),
    ],
)
def test_patterns_say_which_models_are_allowed(
    patterns: tuple[str, ...], allowed: list[str]
) -> None:
    limits = Limits(models=patterns)

    assert [m for m in ("flux-pro", "dall-e-3", "x") if limits.allows(m)] == allowed


def test_revoking_twice_keeps_the_first_time(keys: KeyStore) -> None:
    key = keys.ensure(PLAIN, "Ann")

    assert keys.revoke(key.id) == keys.revoke(key.id)


def test_revoking_an_unknown_id_is_told(keys: KeyStore) -> None:
    assert keys.revoke("key_0") is None


def test_a_key_expires_at_its_time(keys: KeyStore) -> None:
    key, plain = keys.create("Ann", expires=2000)

    found = keys.find(plain)

    assert found == key
    assert not key.expired(1999.9)
    assert key.expired(2000)
    assert not keys.ensure(PLAIN, "lasting").expired(9e9)


def test_a_remembered_key_is_found_while_redis_is_away(clock: Clock) -> None:
    with running_valkey() as mortal:
        client = connect(mortal.url)
        keys = KeyStore(client, clock=clock)
        keys.ensure(PLAIN, "Ann")
        keys.find(PLAIN)

    assert keys.find(PLAIN) is not None
    clock.now += 6
    with pytest.raises(StoreUnavailable):
        keys.find(PLAIN)
    close(client)


def test_what_was_not_found_is_not_remembered(keys: KeyStore) -> None:
    assert keys.find(PLAIN) is None

    keys.ensure(PLAIN, "Ann")

    assert keys.find(PLAIN) is not None


def test_keys_are_listed_oldest_first(keys: KeyStore) -> None:
    made = [keys.create(name)[0] for name in "abc"]

    assert sorted(keys.list(), key=lambda k: k.id) == sorted(made, key=lambda k: k.id)
    assert [k.created for k in keys.list()] == sorted(k.created for k in made)


def test_a_key_that_is_known_can_be_registered_again_at_the_memory_limit(
    keys: KeyStore, valkey: Valkey
) -> None:
    known = keys.ensure(PLAIN, "first key")

    with valkey.full():
        assert keys.ensure(PLAIN, "first key") == known
