"""What both stores in Redis need without its client, which is an extra: a URL without its password, how to install it,
and the checksum before a user's state.
"""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

import xxhash

from features.errors import SettingsError

_CHECK = 8


def masked(url: str) -> str:
    """The URL without password and options, as messages may show it."""
    try:
        parts = urlsplit(url)
        user = f"{parts.username}@" if parts.username else ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that cannot be read"
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"


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
