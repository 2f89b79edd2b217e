"""What both stores in Redis need without its client, which is an extra: a URL without its password, how to install it,
and the checksum before a user's state.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from urllib.parse import urlsplit

import xxhash

from features.errors import SettingsError

UNREADABLE = "a URL that cannot be read"
_CHECK = 8
_HOSTS = re.compile(r"(?:(?:\[[^\[\]@]*\]|[^\[\]:,@]*)(?::\d{0,5})?(?:,(?!$)|$))*")


def masked(url: str) -> str:
    """The URL without password and options, as messages may show it; it may name several hosts. UNREADABLE where that
    is not sure, as with a password that holds a slash.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return UNREADABLE
    user, _, hosts = parts.netloc.rpartition("@")
    cut = parts.scheme.startswith("redis") and "@" in parts.path
    if cut or not _HOSTS.fullmatch(hosts):
        return UNREADABLE
    name = user.partition(":")[0]
    return f"{parts.scheme}://{name}{'@' * bool(name)}{hosts}{parts.path}"


def require_redis(setting: str) -> None:
    """Raises SettingsError where the client is not installed."""
    if find_spec("redis") is None:
        raise SettingsError(
            "the Redis client is not installed", field=setting, hint="pip install 'repl-ranker[redis]'"
        )


def seal_state(body: bytes) -> bytes:
    """A user's state behind its xxh3-64."""
    return xxhash.xxh3_64_digest(body) + body


def unseal_state(data: bytes) -> bytes | None:
    """The inverse of `seal_state`; None where the bytes are not those that were written."""
    body = data[_CHECK:]
    return body if xxhash.xxh3_64_digest(body) == data[:_CHECK] else None
