"""What keeps a process from its start: Redis that will never take it, as things are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.connection import connect
from common.errors import ConfigurationError
from common.redis_check import check_redis
from tests.processes import free_port
from tests.redis_places import SERVICE, Authority, Watched, tls_door
from tests.valkey import Valkey, close


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def door(authority: Authority, valkey: Valkey) -> Iterator[int]:
    with tls_door(valkey.port, authority) as port:
        yield port


def test_one_that_is_trusted_is_taken_and_keeps_its_connection(
    door: int, authority: Authority, valkey: Valkey
) -> None:
    url = f"rediss://127.0.0.1:{door}/0{authority.options()}"
    check_redis(url)
    client = connect(url, connections=1)
    try:
        client.set("fruit", "apple")
        made = valkey.redis.info("stats")["total_connections_received"]
        for _ in range(5):
            assert client.get("fruit") == "apple"
        assert valkey.redis.info("stats")["total_connections_received"] == made
    finally:
        close(client)


def refused(url: str) -> str:
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: ") as caught:
        check_redis(url)
    return str(caught.value)


def test_a_strange_authority_is_not_trusted(door: int, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")

    said = refused(f"rediss://127.0.0.1:{door}/0{stranger.options()}")

    assert f"no TLS with 127.0.0.1:{door}: " in said
    assert "certificate" in said
    assert "ssl_ca_certs names the file" in said


def test_the_name_has_to_be_the_servers(authority: Authority, valkey: Valkey) -> None:
    with tls_door(valkey.port, authority, name="redis.example") as door:
        url = f"rediss://127.0.0.1:{door}/0{authority.options()}"
        assert "127.0.0.1" in refused(url)
        check_redis(f"{url}&ssl_check_hostname=false")


def test_one_that_wants_our_certificate_gets_it_or_says_so(door: int, authority: Authority) -> None:
    said = refused(f"rediss://127.0.0.1:{door}/0{authority.options(client=False)}")

    assert re.search("(?i)certificate.required", said)
    assert "ssl_certfile" in said


def test_files_have_to_be_there(door: int, authority: Authority) -> None:
    authority.key.unlink()
    assert "ssl_keyfile" in refused(f"rediss://127.0.0.1:{door}/0{authority.options()}")

    authority.key.write_text("no key")
    assert "no TLS with" in refused(f"rediss://127.0.0.1:{door}/0{authority.options()}")


def test_a_refused_password_is_told_and_not_shown(valkey: Valkey) -> None:
    said = refused(f"redis://web:MARKED@127.0.0.1:{valkey.port}/0")

    assert "refuses user or password" in said
    assert "MARKED" not in said


def test_one_that_is_away_is_no_reason(authority: Authority) -> None:
    port = free_port()

    check_redis(f"redis://127.0.0.1:{port}/0")
    check_redis(f"rediss://127.0.0.1:{port}/0{authority.options()}")
    check_redis(f"sentinel://127.0.0.1:{port}/{SERVICE}")


def test_a_door_to_nobody_is_no_reason(authority: Authority) -> None:
    with tls_door(free_port(), authority) as door:
        check_redis(f"rediss://127.0.0.1:{door}/0{authority.options()}")


def test_a_service_that_the_sentinels_do_not_know_is_told(tmp_path: Path) -> None:
    servers = Watched(tmp_path, free_port())
    try:
        servers.start_sentinels()
        check_redis(servers.url)  # known, though nobody is there
        said = refused(servers.url.replace(f"/{SERVICE}/", "/paintings/"))
        with tls_door(servers.sentinels[0], Authority(tmp_path)) as door:
            refused_tls = refused(f"sentinels://127.0.0.1:{door}/{SERVICE}")
    finally:
        servers.stop()

    assert f"knows no service paintings; it knows {SERVICE}" in said
    assert f"no TLS with the Sentinel 127.0.0.1:{door}" in refused_tls
