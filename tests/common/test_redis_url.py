"""REDIS_URL taken apart, and what is said of one that nobody can use."""

from __future__ import annotations

from pathlib import Path

import pytest
from kombu import Connection

import common.settings
from common.errors import ConfigurationError
from common.redis_url import RedisUrl
from common.settings import load_settings


@pytest.mark.parametrize(
    ("url", "hosts", "service", "db"),
    [
        ("redis://localhost", (("localhost", 6379),), "", 0),
        ("redis://localhost:6380/3", (("localhost", 6380),), "", 3),
        ("rediss://[::1]:6380/", (("::1", 6380),), "", 0),
        ("sentinel://a/pictures", (("a", 26379),), "pictures", 0),
        ("sentinels://a:1,[::1]:2,c/art/7", (("a", 1), ("::1", 2), ("c", 26379)), "art", 7),
    ],
)
def test_a_url_says_where(
    url: str, hosts: tuple[tuple[str, int], ...], service: str, db: int
) -> None:
    where = RedisUrl.parse(url)

    assert (where.hosts, where.service, where.db) == (hosts, service, db)
    assert (where.tls is not None) == url.startswith(("rediss:", "sentinels:"))


def test_who_answers_is_checked_unless_said_otherwise() -> None:
    assert RedisUrl.parse("rediss://a").tls == {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
    }
    said = RedisUrl.parse(
        "rediss://a?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=false&ssl_keyfile=k"
    )
    assert said.tls == {
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
        "ssl_keyfile": "k",
    }
    assert said.files == {"ssl_keyfile": "k"}


def test_the_broker_is_told_the_same() -> None:
    where = RedisUrl.parse(
        "sentinels://web:p%3A%2Fw@a:1,[::1]:2/pictures/7?sentinel_password=s&ssl_ca_certs=ca.pem"
    )
    broker = where.broker()

    connection = Connection(broker["broker_url"], ssl=broker["broker_use_ssl"])
    assert connection.transport_cls == "sentinel"
    assert (connection.userid, connection.password) == ("web", "p:/w")
    assert connection.virtual_host == "7"
    assert connection.alt == broker["broker_url"].split(";")
    assert connection.ssl == where.tls
    assert where.sentinel_login == {"password": "s"}


def test_a_broker_behind_tls_is_not_trusted_blindly() -> None:
    """kombu's own reading of such a URL is ssl_cert_reqs=none."""
    broker = RedisUrl.parse("rediss://a:1/2").broker()

    assert broker["broker_url"] == "rediss://a:1/2"
    assert broker["broker_use_ssl"]["ssl_cert_reqs"] == "required"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://a", "must begin with one of redis://"),
        ("redis://", "lacks a host"),
        ("redis://a:none", "host:port"),
        ("redis://a,b", "only Sentinels may be several"),
        ("redis://a/pictures", "number of a database"),
        ("redis://a?ssl_ca_certs=f", "ssl_ca_certs is for TLS: rediss://"),
        ("redis://a?db=3", "no option db; there are none"),
        ("rediss://a?ssl_ca=f", "no option ssl_ca; there are ssl_ca_certs, "),
        ("rediss://a?ssl_cert_reqs=maybe", "required, optional, none"),
        ("rediss://a?ssl_check_hostname=maybe", "true or false"),
        ("sentinel://a", "lacks the service"),
        ("redis://u:pass#word@a", "%23"),
        ("redis://u:pass/word@a", "%2F"),
    ],
)
def test_a_url_that_nobody_can_use_stops_the_start(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: ") as caught:
        load_settings(redis_url=url)

    assert said in str(caught.value)
    assert "word" not in str(caught.value).replace("password", "")


def test_a_setting_may_be_a_secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis_url").write_text("redis://from-a-file\n")
    (tmp_path / "kubernetes.io").mkdir()  # what else lies there
    monkeypatch.setattr(common.settings, "_SECRETS", tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert load_settings().redis_url == "redis://from-a-file"

    monkeypatch.setenv("REDIS_URL", "redis://from-the-environment")
    assert load_settings().redis_url == "redis://from-the-environment"
