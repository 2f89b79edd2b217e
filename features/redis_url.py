"""What a Redis URL says: one server, the nodes of a Cluster, or the sentinels that watch over one primary.

    redis://[CREDENTIALS@]HOST[:PORT][/DB]                                 rediss:// with TLS
    redis+cluster://[CREDENTIALS@]HOST[:PORT][,HOST[:PORT]…]               ?tls=true with TLS
    redis+sentinel://[CREDENTIALS@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DB] ?tls=true, ?sentinel_password=…

CREDENTIALS: user, colon, password; the user may be missing. Further options go to the Redis client as they are
(`ssl_ca_certs=PATH`). It imports no client and connects to nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from features.errors import SettingsError
from features.redis_extra import UNREADABLE, masked

Address = tuple[str, int]
Kind = Literal["server", "cluster", "sentinel"]
KINDS: dict[str, tuple[Kind, int, str]] = {
    "redis": ("server", 6379, "redis://HOST:6379/0"),
    "rediss": ("server", 6379, "rediss://HOST:6379/0"),
    "redis+cluster": ("cluster", 6379, "redis+cluster://HOST:6379,HOST:6379"),
    "redis+sentinel": ("sentinel", 26379, "redis+sentinel://HOST:26379,HOST:26379/SERVICE"),
}
"""Scheme → what it names, the port where none is given, an example."""
MAX_NODES = 32
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:,@/\s]+)(?::(\d{1,5}))?")


@dataclass(frozen=True)
class RedisUrl:
    """`nodes`: whom to ask for the primary, as given; none for a server, whose URL is `url`."""

    kind: Kind
    url: str
    nodes: tuple[Address, ...] = ()
    service: str = ""
    _user: str = ""
    _sentinel_user: str = ""
    _tls: bool = False
    _path: str = ""
    _query: str = ""

    def of_server(self, at: Address) -> str:
        """The URL of one Redis, with the user, database and options that were given."""
        return self._one(at, self._user, self._path)

    def of_asked(self, at: Address) -> str:
        """The URL of one that is asked where the primary is: a node of the Cluster, a sentinel."""
        return self.of_server(at) if self.kind == "cluster" else self._one(at, self._sentinel_user, "")

    def _one(self, at: Address, user: str, path: str) -> str:
        host = f"[{at[0]}]" if ":" in at[0] else at[0]
        return f"redis{'s' * self._tls}://{user}{host}:{at[1]}{path}{self._query}"


def read_url(url: str, setting: str) -> RedisUrl:
    """setting: the name under which the URL was given. Raises SettingsError that names it, with the password hidden."""
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in KINDS:
        raise SettingsError(
            f"the scheme {scheme!r} is not known",
            field=setting,
            value=masked(url),
            hint=f"use one of {', '.join(KINDS)}",
        )
    kind, port, example = KINDS[scheme]
    try:
        if masked(url) == UNREADABLE:
            raise ValueError("host and port cannot be told (percent-encode /, ?, # and @ of a password)")
        return RedisUrl(kind, url) if kind == "server" else _several(kind, url, port)
    except ValueError as error:
        raise SettingsError(
            f"not a Redis URL: {error}", field=setting, value=masked(url), hint=f"such as {example}"
        ) from error


def _several(kind: Kind, url: str, port: int) -> RedisUrl:
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    tls = options.pop("tls", "false")
    if tls not in ("true", "false"):
        raise ValueError(f"tls={tls!r} is neither true nor false")
    service, path, asked = "", "", ""
    if kind == "cluster":
        if parts.path.strip("/") not in ("", "0") or options.get("db", "0") != "0":
            raise ValueError("a Redis Cluster has no other database than 0")
    else:
        service, path = _service(parts.path)
        names = [options.pop(name, "") for name in ("sentinel_username", "sentinel_password")]
        asked = ":".join(quote(name, safe="") for name in names) + "@" if any(names) else ""
    query = f"?{urlencode(options)}" if options else ""
    return RedisUrl(kind, url, _addresses(hosts, port), service, user + at, asked, tls == "true", path, query)


def _addresses(hosts: str, port: int) -> tuple[Address, ...]:
    found = []
    for one in hosts.split(","):
        match = _HOST.fullmatch(one)
        if match is None or not 0 < int(match[2] or port) < 1 << 16:
            raise ValueError("it needs HOST or HOST:PORT, several with commas between them")
        found.append((match[1].strip("[]"), int(match[2] or port)))
    if len(found) > MAX_NODES:
        raise ValueError(f"it names {len(found)} nodes, {MAX_NODES} are enough")
    return tuple(found)


def _service(path: str) -> tuple[str, str]:
    """The service that the sentinels watch, and the database as the path of a server's URL."""
    name, _, database = path.strip("/").partition("/")
    if not name:
        raise ValueError("the path names the service that the sentinels watch, and there is none")
    if not re.fullmatch(r"\d*", database):
        raise ValueError(f"the database {database!r} is not a number")
    return unquote(name), f"/{database or 0}"
