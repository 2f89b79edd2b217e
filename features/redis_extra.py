"""What is said of Redis without its client, which is an extra: a URL without its password, and how to install it."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from features.errors import SettingsError


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
