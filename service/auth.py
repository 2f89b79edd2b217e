"""Who may call: the bearer key of the administrator, and which hosts and origins a loopback service trusts.

No accounts, no roles. The key is compared in constant time and never logged. On a loopback address events
and ranking are open, and calls with a foreign Host or Origin are refused (a web page elsewhere must not reach
a service on the reader's machine); bound to any other address, writing needs the key.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from features.errors import Forbidden, Unauthorised

KEY_FILE = "admin.key"
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]", "::1"}


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
    """Decides for one bind address and one key."""

    def __init__(self, key: str, bind_host: str) -> None:
        self._key = key.encode()
        self.open = is_loopback(bind_host)

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

    def is_admin(self, authorization: str | None) -> bool:
        """Whether the Authorization header carries the key (compared in constant time)."""
        scheme, _, sent = (authorization or "").partition(" ")
        same = hmac.compare_digest(sent.strip().encode(), self._key)
        return same and scheme.lower() == "bearer"

    def require_admin(self, authorization: str | None) -> None:
        """Raise Unauthorised unless the header carries the key."""
        if not self.is_admin(authorization):
            hint = f"send 'Authorization: Bearer KEY' with the key in {KEY_FILE} of the data directory"
            raise Unauthorised("this call needs the administrator's key", hint=hint)

    def require_writer(self, authorization: str | None) -> None:
        """As `require_admin`, but open on a loopback address."""
        if not self.open:
            self.require_admin(authorization)
