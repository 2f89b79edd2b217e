"""What a `kafka://` URL says: brokers, prefix of the topics, TLS, SASL, how long to wait. It imports no client.

    kafka://host:9092[,host:9092…]/prefix?tls=true&ca=FILE&cert=FILE&key=FILE&sasl=SCRAM-SHA-512&timeout_ms=10000

User and password do not stand in it, because URLs are shown and logged: they are settings of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from features.errors import SettingsError
from features.records import STREAMS, Stream

SCHEME = "kafka"
SETTING = "log_url"
SUFFIX: dict[Stream, str] = {
    "event": "events",
    "served": "served",
    "dead-letter": "dead-letter",
    "cut": "cut",
    "control": "control",
}
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
OPTIONS = ("tls", "ca", "cert", "key", "sasl", "timeout_ms")
EXAMPLE = "kafka://host:9092/prefix"
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # with a suffix below Kafka's 249


@dataclass(frozen=True)
class KafkaAddress:
    """Where the log is and how to be let in. `timeout_ms` bounds every call that waits for a broker."""

    servers: tuple[str, ...]
    prefix: str
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    sasl: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout_ms: int = 10_000

    @property
    def shown(self) -> str:
        """The URL without options: for messages."""
        return f"{SCHEME}://{','.join(self.servers)}/{self.prefix}"

    def topic(self, stream: Stream) -> str:
        """The topic of a stream."""
        return f"{self.prefix}.{SUFFIX[stream]}"

    def topics(self) -> dict[Stream, str]:
        """The topic of every stream."""
        return {stream: self.topic(stream) for stream in STREAMS}

    def client_options(self) -> dict[str, Any]:
        """What every client of kafka-python is made with."""
        protocol = ("SASL_" if self.sasl else "") + (
            "SSL" if self.tls else "PLAINTEXT"
        )
        found: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": f"repl-{self.prefix}",
            "security_protocol": protocol,
            "bootstrap_timeout_ms": self.timeout_ms,
            "request_timeout_ms": max(1_000, self.timeout_ms // 2),
            "reconnect_backoff_max_ms": 1_000,
            "metadata_max_age_ms": 60_000,
        }
        if self.tls:
            found |= {"ssl_cafile": self.ca, "ssl_certfile": self.cert, "ssl_keyfile": self.key}
        if self.sasl:
            found |= {
                "sasl_mechanism": self.sasl,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password,
            }
        return found


def parse_address(url: str, user: str | None = None, password: str | None = None) -> KafkaAddress:
    """The address of a `kafka://` URL. Raises SettingsError naming the part that is wrong."""
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        raise _wrong("not a kafka:// URL", parts.scheme)
    if "@" in parts.netloc:
        raise SettingsError(
            "user and password do not belong into a URL, which is shown and logged",
            field=SETTING,
            hint="set log_user and log_password (REPL_LOG_USER, REPL_LOG_PASSWORD)",
        )
    servers = tuple(parts.netloc.split(","))
    for server in servers:
        if not (found := _SERVER.fullmatch(server)) or not 0 < int(found[2]) < 65_536:
            raise _wrong("not host:port", server)
    prefix = parts.path.removeprefix("/")
    if not _PREFIX.fullmatch(prefix):
        raise _wrong("not a prefix for topics (letters, digits, . _ -; at most 200)", prefix)
    options = _options(parts.query)
    if options.get("sasl") and not (user and password):
        raise SettingsError("sasl needs a user and a password", field=SETTING, hint="set log_user and log_password")
    if user and not options.get("sasl"):
        raise SettingsError(
            "log_user is set, but log_url says no mechanism",
            field=SETTING,
            hint=f"add ?sasl= and one of {', '.join(MECHANISMS)}",
        )
    return KafkaAddress(servers, prefix, user=user, password=password, **options)


def _options(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise _wrong(f"unknown option; there are {', '.join(OPTIONS)}", name)
        found[name] = value
    if "tls" in found:
        if found["tls"] not in ("true", "false"):
            raise _wrong("tls is true or false", found["tls"])
        found["tls"] = found["tls"] == "true"
    files = [name for name in ("ca", "cert", "key") if found.get(name)]
    if files and not found.get("tls"):
        raise _wrong(f"{files[0]} without tls=true", found[files[0]])
    if "sasl" in found and found["sasl"] not in MECHANISMS:
        raise _wrong(f"sasl is one of {', '.join(MECHANISMS)}", found["sasl"])
    if "timeout_ms" in found:
        if not re.fullmatch(r"[0-9]{4,6}", found["timeout_ms"]):
            raise _wrong("timeout_ms is 1000 to 999999", found["timeout_ms"])
        found["timeout_ms"] = int(found["timeout_ms"])
    return found


def _wrong(message: str, value: str) -> SettingsError:
    return SettingsError(message, field=SETTING, value=value, hint=f"for example {EXAMPLE}?tls=true (docs/kafka.md)")
