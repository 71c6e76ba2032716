"""Which addresses a webhook may have: every spelling of a private one is refused."""

from __future__ import annotations

import pytest

from common.addresses import host_of
from common.webhook import Webhook, webhook_id

HOSTILE = [
    # loopback, in every base and length that some resolver takes
    "https://127.0.0.1/",
    "https://127.0.0.1:8443/x",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0X7F.1/",
    "https://0x7f.0x0.0x0.0x1/",
    "https://0177.0.0.1/",
    "https://0177.0.0.01/",
    "https://017700000001/",
    "https://127.000.000.001/",
    "https://127.0.0.0x1/",
    "https://1.2.3.4.5/",
    "https://127.0.0.1./",
    "https://0x/",
    "https://0/",
    "https://0.0.0.0/",
    # other networks that are not the Internet
    "https://10.1.2.3/",
    "https://172.16.0.1/",
    "https://192.168.0.1/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    # the same in IPv6, and wrapped in it
    "https://[::1]/",
    "https://[::]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::127.0.0.1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:7f00:1::]/",
    "https://[2001:db8::1]/",
    "https://[::1/",
    "https://[v1.a]/",
    # names of inner networks
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://a.localhost/",
    "https://localhost.localdomain/",
    "https://redis/",
    "https://printer.local/",
    "https://metadata.google.internal/",
    "https://nas.lan/",
    "https://router.home.arpa/",
    # letters that some reader takes for others
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127\u30020\u30020\u30021/",
    "https://\u24dbocalhost/",
    "https://loc\u00adalhost/",
    "https://%6cocalhost/",
    "https://127.0.0.1%2f.example.com/",
    "https://bücher.example.com/",
    # who is the host?
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1@example.com/",
    "https://user:secret@example.com/",
    "https://example.com\\@127.0.0.1/",
    "https://127.0.0.1\\.example.com/",
    "https://example.com:443@127.0.0.1/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:port/",
    "https://example.com:/",
    "https://example.com#@127.0.0.1/",
    "https://exam ple.com/",
    "https://example.com/\r\nHost: 127.0.0.1",
    "https://example.com/\t",
    "https://example.com/\x00",
    "https://-example.com/",
    "https://exa..mple.com/",
    "https://.example.com/",
    "https:///x",
    "https://",
    "https:example.com",
    "https:/example.com",
    # other ways out
    "http://example.com/",
    "HTTP://example.com/",
    "//example.com/",
    "/hook",
    "example.com",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "",
    "https://example.com/" + "x" * 2048,
    "https://" + "a" * 64 + ".example.com/",
    "https://" + "a.b" * 90 + ".com/",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_no_spelling_of_a_private_address_is_taken(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|holds|must|leads)") as refused:
        host_of(url, private=False)

    assert not url or url not in str(refused.value)


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 60


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com", "example.com"),
        ("https://EXAMPLE.com/Hook?a=b&c=%20", "example.com"),
        ("HTTPS://hooks.example.com:8443/x/@me", "hooks.example.com"),
        ("https://xn--bcher-kva.example.com/", "xn--bcher-kva.example.com"),
        ("https://my_hooks.example.com?x", "my_hooks.example.com"),
        ("https://1.1.1.1/x", "1.1.1.1"),
        ("https://[2606:4700:4700:0::1111]:8443/x", "[2606:4700:4700::1111]"),
        ("https://1.2.3.4.example.com/", "1.2.3.4.example.com"),
    ],
)
def test_public_https_is_taken(url: str, host: str) -> None:
    assert host_of(url, private=False) == host


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/x", "http://localhost/", "https://redis/", "http://[::1]:1/"]
)
def test_for_development_anything_goes_that_is_plain_http(url: str) -> None:
    assert host_of(url, private=True)

    with pytest.raises(ValueError, match=r"^(has|leads|must)"):
        host_of(url, private=False)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://a@127.0.0.1/", "http://0x7f.1/"])
def test_nor_is_everything_taken_for_development(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|must)"):
        host_of(url, private=True)


def test_what_may_be_secret_in_an_address_is_not_shown() -> None:
    hook = Webhook("https://example.com/a/b?token=s3cret", "example.com", ("failed",), "https://x")

    assert hook.shown_url == "https://example.com/a/b?…"
    assert "s3cret" not in repr(hook)
    assert Webhook("https://example.com/a", "", (), "").shown_url == "https://example.com/a"


def test_the_id_of_a_message_has_no_full_stop() -> None:
    """Id, timestamp and body are signed with full stops between them."""
    assert webhook_id("imgtask_0f", "failed") == "imgtask_0f_failed"
