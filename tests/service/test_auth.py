"""Who may call: the key file, the bearer key, hosts and origins."""

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from features.errors import Forbidden, Unauthorised
from service.auth import Auth, is_loopback, load_key, need_of

PIN = need_of("POST", "/v1/versions/1/pin")


def test_the_key_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    key = load_key(tmp_path, None)
    assert len(key) >= 32
    assert load_key(tmp_path, None) == key
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600


def test_a_configured_key_is_taken_and_not_written(tmp_path: Path) -> None:
    assert load_key(tmp_path, SecretStr("mine")) == "mine"
    assert not (tmp_path / "admin.key").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_loopback_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "shop.example"])
def test_other_addresses(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer sécret", "Bearer secret2"],
)
def test_anything_but_the_key_is_refused(header: str | None) -> None:
    auth = Auth("secret", "127.0.0.1")
    with pytest.raises(Unauthorised) as refused:
        auth.check(auth.grant(header), PIN, "default")
    assert "secret" not in str(refused.value)


def test_the_key_opens_and_loopback_writes_are_open() -> None:
    auth = Auth("secret", "127.0.0.1")
    auth.check(auth.grant("Bearer secret"), PIN, "default")
    auth.check(auth.grant("bearer  secret "), PIN, "default")
    write = need_of("POST", "/v1/events")
    auth.check(auth.grant(None), write, "default")
    auth.check(auth.grant("Bearer wrong"), write, "default")  # as without: nobody asks for one
    elsewhere = Auth("secret", "0.0.0.0")
    elsewhere.check(elsewhere.grant("Bearer secret"), write, "default")
    with pytest.raises(Unauthorised):
        elsewhere.check(None, write, "default")


@pytest.mark.parametrize(
    ("host", "origin", "fine"),
    [
        ("127.0.0.1:8080", None, True),
        ("localhost", "http://localhost:3000", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("LOCALHOST:1", None, True),
        ("evil.example", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("127.0.0.1:8080", "https://evil.example", False),
        ("127.0.0.1:8080", "null", False),
    ],
)
def test_hosts_and_origins_on_loopback(host: str, origin: str | None, fine: bool) -> None:
    auth = Auth("secret", "127.0.0.1")
    if fine:
        auth.check_host(host, origin)
    else:
        with pytest.raises(Forbidden):
            auth.check_host(host, origin)
    Auth("secret", "0.0.0.0").check_host(host, origin)
