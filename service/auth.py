"""Who may call: keys with scopes and a tenant, the administrator's key, and which hosts and origins a loopback service
trusts. It keeps no accounts and no keys: those lie in `service/keys.py`.

Without a keys file: on a loopback address events and ranking are open, and calls with a foreign Host or Origin are
refused (a web page elsewhere must not reach a service on the reader's machine); bound to any other address, writing
needs the administrator's key. With a keys file every call under /v1/ needs a key, wherever the service is bound. Keys
are compared in constant time and never logged.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from features.errors import Forbidden, Unauthorised
from service.keys import SCOPES, Keys, Scope, keys_path
from service.settings import Settings

KEY_FILE = "admin.key"
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]", "::1"}


class Grant(NamedTuple):
    """What a key that was sent allows. `tenant`: None for all."""

    key: str
    scopes: frozenset[Scope]
    tenant: str | None


class Need(NamedTuple):
    """What a call needs. `open`: without a keys file anybody may; `metrics`: with one too, if the settings say so."""

    scope: Scope
    open: bool = False
    metrics: bool = False


ADMIN = Grant("admin", frozenset(SCOPES), None)
_READ, _WRITE, _ADMIN, _LOOK = Need("read"), Need("write"), Need("admin"), Need("read", open=True)
_METRICS = Need("read", open=True, metrics=True)


def need_of(method: str, path: str) -> Need | None:
    """What a call of this address needs; None for health, page and documents, which are open."""
    if not path.startswith("/v1/"):
        return _METRICS if path == "/metrics" else None
    if path == "/v1/events":
        return _WRITE
    if path.startswith(("/v1/versions", "/v1/bases", "/v1/mode")):
        return _LOOK if method == "GET" else _ADMIN
    return _LOOK if path == "/v1/status" else _READ


def is_loopback(host: str) -> bool:
    """Whether a bind address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_key(data_dir: Path, configured: SecretStr | None) -> str:
    """The configured key, else that of `admin.key`, made on first start with mode 600."""
    if configured is not None and configured.get_secret_value():
        return configured.get_secret_value()
    path = data_dir / KEY_FILE
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    key = secrets.token_urlsafe(32)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(key + "\n")
    return key


def open_auth(settings: Settings) -> Auth:
    """Who may call a service with these settings. Raises SettingsError for a keys file that cannot be read."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    key = load_key(settings.data_dir, settings.admin_key)
    return Auth(key, settings.host, Keys(keys_path(settings)), open_metrics=settings.metrics_open)


_HOST = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:[0-9]*)?")


def _host_name(value: str) -> str:
    """The name without the port of a Host header or of an Origin's address; empty where it is not one."""
    found = _HOST.fullmatch(value)
    return found[1].lower() if found else ""


def _origin_name(value: str) -> str:
    """The host name of an Origin; empty where it is not one."""
    try:
        return _host_name(urlsplit(value).netloc)
    except ValueError:
        return ""


class Auth:
    """Decides for one bind address, the administrator's key and the keys of a file."""

    def __init__(self, key: str, bind_host: str, keys: Keys | None = None, *, open_metrics: bool = False) -> None:
        """keys: without them as with a file that is not there. open_metrics: /metrics needs no key in any case."""
        self._key = key.encode()
        self.open = is_loopback(bind_host)
        self._keys, self._open_metrics = keys, open_metrics

    def start(self) -> None:
        """Follow the keys file."""
        if self._keys is not None:
            self._keys.start()

    def stop(self) -> None:
        """Leave it."""
        if self._keys is not None:
            self._keys.stop()

    def check_host(self, host: str | None, origin: str | None) -> None:
        """On loopback: refuse a Host or an Origin that is not this machine. Elsewhere: nothing to check."""
        if not self.open:
            return
        if host is not None and _host_name(host) not in LOOPBACK_NAMES:
            hint = "call it by 127.0.0.1 or localhost, or bind another address with --host"
            raise Forbidden("this service answers on loopback only", field="Host", value=host, hint=hint)
        if origin is not None and _origin_name(origin) not in LOOPBACK_NAMES:
            hint = "pages of other origins may not call a loopback service"
            raise Forbidden("origin not allowed", field="Origin", value=origin, hint=hint)

    def grant(self, authorization: str | None) -> Grant | None:
        """What the key in an Authorization header allows; None without one that is known."""
        scheme, _, sent = (authorization or "").partition(" ")
        sent = sent.strip()
        if scheme.lower() != "bearer":
            return None
        if hmac.compare_digest(sent.encode(), self._key):
            return ADMIN
        key = self._keys.find(sent) if self._keys is not None else None
        return None if key is None else Grant(key.id, _with_admin(key.scopes), key.tenant)

    def check(self, grant: Grant | None, need: Need | None, tenant: str | None) -> None:
        """Raise Unauthorised or Forbidden unless `grant` covers a call of `tenant` (None: of no tenant)."""
        locked = self._keys is not None and self._keys.locked
        if need is None or (need.metrics and self._open_metrics):
            return
        if not locked and grant is None and (need.open or (self.open and need.scope != "admin")):
            return
        if grant is None:
            raise _unauthorised(locked)
        if need.scope not in grant.scopes:
            hint = f"it has {', '.join(sorted(grant.scopes))}; repl-ranker keys add makes another"
            raise Forbidden(f"this key has no scope {need.scope!r}", field="Authorization", value=grant.key, hint=hint)
        if grant.tenant is not None and tenant is not None and grant.tenant != tenant:
            raise Forbidden(f"this key belongs to the tenant {grant.tenant!r}", field="X-Tenant", value=tenant)


def _with_admin(scopes: tuple[Scope, ...]) -> frozenset[Scope]:
    return ADMIN.scopes if "admin" in scopes else frozenset(scopes)


def _unauthorised(locked: bool) -> Unauthorised:
    if locked:
        hint = "send 'Authorization: Bearer KEY' with a key that `repl-ranker keys add` made"
        return Unauthorised("this call needs a key", hint=hint)
    hint = f"send 'Authorization: Bearer KEY' with the key in {KEY_FILE} of the data directory"
    return Unauthorised("this call needs the administrator's key", hint=hint)
