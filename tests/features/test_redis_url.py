"""What Redis URLs say, and what is said of those that cannot be used: the setting, what to do, never the password."""

from __future__ import annotations

import pytest

from features.errors import SettingsError
from features.redis_client import RedisPlace
from features.redis_extra import masked
from features.redis_url import MAX_NODES, read_url

WORD = "secret-word"


def test_a_server_is_taken_as_it_is() -> None:
    for url in ("redis://h", f"rediss://anna:{WORD}@h:1/2?ssl_cert_reqs=none"):
        found = read_url(url, "weights_url")
        assert (found.kind, found.url, found.nodes) == ("server", url, ())


def test_the_nodes_of_a_cluster() -> None:
    found = read_url(f"redis+cluster://anna:{WORD}@a:7000,b,[::1]:7002/0?tls=true&ssl_ca_certs=/ca.pem", "weights_url")
    assert (found.kind, found.nodes) == ("cluster", (("a", 7000), ("b", 6379), ("::1", 7002)))
    assert found.of_server(("10.0.0.7", 7001)) == f"rediss://anna:{WORD}@10.0.0.7:7001?ssl_ca_certs=%2Fca.pem"
    assert found.of_asked(("::1", 7002)) == f"rediss://anna:{WORD}@[::1]:7002?ssl_ca_certs=%2Fca.pem"


def test_sentinels_and_what_they_watch() -> None:
    query = f"sentinel_username=s&sentinel_password={WORD}%40"
    found = read_url(f"redis+sentinel://:{WORD}@a,b:26380/the%20shop/3?{query}", "weights_url")
    assert (found.kind, found.nodes, found.service) == ("sentinel", (("a", 26379), ("b", 26380)), "the shop")
    assert found.of_server(("c", 6379)) == f"redis://:{WORD}@c:6379/3"
    assert found.of_asked(("a", 26379)) == f"redis://s:{WORD}%40@a:26379"
    plain = read_url("redis+sentinel://a/shop", "weights_url")
    assert (plain.of_server(("c", 1)), plain.of_asked(("a", 2))) == ("redis://c:1/0", "redis://a:2")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"mysql://:{WORD}@h", "'mysql' is not known"),
        (f"redis+clusters://:{WORD}@h", "is not known"),
        ("no URL", "'' is not known"),
        ("redis://h:port/0", "not a Redis URL"),
        (f"redis://:1/{WORD}@h", "percent-encode"),
        (f"redis+cluster://:pa/{WORD}@h", "percent-encode"),
        (f"redis+cluster://:{WORD}@h/3", "no other database than 0"),
        (f"redis+cluster://:{WORD}@h?db=3", "no other database than 0"),
        (f"redis+cluster://:{WORD}@h?tls=yes", "tls='yes' is neither true nor false"),
        (f"redis+cluster://:{WORD}@h,,i", "HOST or HOST:PORT"),
        (f"redis+cluster://:{WORD}@h:0", "HOST or HOST:PORT"),
        (f"redis+cluster://:{WORD}@", "HOST or HOST:PORT"),
        (f"redis+cluster://:{WORD}@{','.join('h' * (MAX_NODES + 1))}", "33 nodes, 32 are enough"),
        (f"redis+cluster://:{WORD}@h?tsl=true", "tsl"),
        (f"redis://:{WORD}@h?tls=true", "tls"),
        (f"redis+sentinel://:{WORD}@h", "service"),
        (f"redis+sentinel://:{WORD}@h/shop/one", "database 'one' is not a number"),
        (f"redis+sentinel://:{WORD}@h/shop?tls", "bad query"),
    ],
)
def test_what_cannot_be_used_is_said_without_the_password(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as told:
        RedisPlace(url, "shop", setting="weights_url")
    assert told.value.field == "weights_url"
    assert WORD not in f"{told.value} {told.value.as_dict()} {told.value.__cause__}"


def test_a_tenant_that_would_break_the_slot_is_refused() -> None:
    for url in ("redis://h", "redis+cluster://h", "redis+sentinel://h/shop"):
        with pytest.raises(SettingsError, match="without braces"):
            RedisPlace(url, "a}b", setting="weights_url")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"rediss://anna:{WORD}@h:6380/2?password={WORD}", "rediss://anna@h:6380/2"),
        (f"redis+cluster://:{WORD}@a:1,b:2,[::1]:3?tls=true", "redis+cluster://a:1,b:2,[::1]:3"),
        (f"redis+sentinel://:{WORD}@a,b/shop/1?sentinel_password={WORD}", "redis+sentinel://a,b/shop/1"),
        (f"redis://:1/{WORD}@h", "a URL that cannot be read"),
        (f"redis://[::1:{WORD}", "a URL that cannot be read"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown
