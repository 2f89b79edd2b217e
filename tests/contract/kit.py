"""What the writer of contract fixtures (`make.py`) and their tests share: the shop's settings, forms of files, formats.

A fixture is a directory tests/contract/RELEASE. Files that compress are kept as gzip; `unpacked` gives them back.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from features import (
    catalogue_chunks,
    event_log_archive_manifest,
    event_log_sqlite,
    events,
    feature_store,
    feature_store_redis,
    ops,
    records,
    user_state_bytes,
)
from features.realtime import RealtimeConfig
from service import artifact, catalogue_store, local_copy, weight_version
from service.settings import Settings
from trainer import meta, rollout

HERE = Path(__file__).resolve().parent
START = 1_750_000_000_000
SMALL = RealtimeConfig(max_items=20_000, max_categories=4_096, max_lists=20_000)
"""That of `service/testkit.py`, whose ranker serves what this trainer wrote."""

TENANT = "TENANT"
"""Stands for the tenant in the names of dumped Redis keys."""

FORMATS = {
    "log record": records.VERSION,
    "log file": event_log_sqlite.FORMAT,
    "archive": event_log_archive_manifest.VERSION,
    "weight store and checkpoint": weight_version.FORMAT,
    "changes": ops._FORMAT,
    "user state": user_state_bytes.FORMAT,
    "user states in state.db": feature_store._FORMAT,
    "user states in Redis": max(feature_store_redis._FORMATS),
    "catalogue chunk": catalogue_chunks.FORMAT,
    "catalogue.db": int(catalogue_store._FORMAT),
    "local copy": local_copy.FORMAT,
    "artifact": artifact.FORMAT,
}
"""The number of each format of this code."""

STRUCTS: dict[str, tuple[str, Any]] = {
    "ItemEvent": ("log record", events.ItemEvent),
    "UserEvent": ("log record", events.UserEvent),
    "IdentifyEvent": ("log record", events.IdentifyEvent),
    "RankingEvent": ("log record", events.RankingEvent),
    "ShownItem": ("log record", events.ShownItem),
    "InteractionEvent": ("log record", events.InteractionEvent),
    "ServedRecord": ("log record", records.ServedRecord),
    "Cut": ("log record", records.Cut),
    "archive Manifest": ("archive", event_log_archive_manifest.Manifest),
    "archive Part": ("archive", event_log_archive_manifest.Part),
    "Version": ("weight store and checkpoint", weight_version.Version),
    "Beside": ("weight store and checkpoint", weight_version.Beside),
    "Checkpoint": ("weight store and checkpoint", weight_version.Checkpoint),
    "Heartbeat": ("weight store and checkpoint", weight_version.Heartbeat),
    "Meta": ("weight store and checkpoint", meta.Meta),
    "RolloutState": ("weight store and checkpoint", rollout.RolloutState),
    "local copy Manifest": ("local copy", local_copy.Manifest),
    "artifact Manifest": ("artifact", artifact.Manifest),
}
"""Forms with named fields: the format whose number they go by, and the struct."""


def fields_of(struct: Any) -> dict[str, list[Any]]:
    """Stored name of each field → its type as text, and whether it must be there."""
    return {
        field.encode_name: [str(field.type), field.required] for field in msgspec.structs.fields(struct)
    }


def settings_of(data_dir: Path, base: Path) -> Settings:
    """Those that the fixture's shop was trained and served with."""
    return Settings(
        data_dir=data_dir, base_dir=base, max_items=SMALL.max_items, join_capacity=200, hold_ms=1_000,
        negative_after_ms=3_000, checkpoint_every_ms=600_000, control_share=0.0,
    )  # fmt: skip


def release() -> str:
    """The version of this code."""
    return importlib.metadata.version("repl-ranker")


def machine() -> str:
    """What has a say in the last bit of a sum, as a hash: kind of CPU, and the libraries that add."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu += "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
    return hashlib.sha256(f"{cpu} {np.__version__} {importlib.metadata.version('numba')}".encode()).hexdigest()[:16]


def packed(source: Path, to: Path) -> None:
    """Copy a directory tree; what gzip makes much smaller is compressed."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            body = path.read_bytes()
            small = gzip.compress(body, 9, mtime=0)
            target = to / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if len(small) < 0.9 * len(body):
                target.with_name(f"{target.name}.gz").write_bytes(small)
            else:
                target.write_bytes(body)


def unpacked(source: Path, to: Path) -> Path:
    """The inverse of `packed`; returns `to`."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            target = to / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".gz":
                target.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            else:
                target.write_bytes(path.read_bytes())
    return to


def text(body: bytes) -> str:
    """Bytes for JSON."""
    return base64.b64encode(body).decode()


def dumped(client: Any, prefix: str) -> Iterator[dict[str, Any]]:
    """Every key of a tenant in a Redis, with `TENANT` in its name."""
    for key in sorted(client.scan_iter(f"{prefix}*")):
        kind = client.type(key).decode()
        if kind == "string":
            value: Any = text(client.get(key))
        elif kind == "hash":
            value = {text(name): text(one) for name, one in sorted(client.hgetall(key).items())}
        elif kind == "zset":
            value = [[text(member), score] for member, score in client.zrange(key, 0, -1, withscores=True)]
        else:
            value = sorted(text(member) for member in client.smembers(key))
        name = key.decode().replace(prefix, f"repl:{{{TENANT}}}")
        yield {"key": name, "kind": kind, "value": value}


def load_dump(client: Any, rows: list[dict[str, Any]], tenant: str) -> None:
    """The inverse of `dumped`, for another tenant."""
    for row in rows:
        key, value = row["key"].replace(TENANT, tenant), row["value"]
        if row["kind"] == "string":
            client.set(key, base64.b64decode(value))
        elif row["kind"] == "hash":
            client.hset(key, mapping={base64.b64decode(n): base64.b64decode(v) for n, v in value.items()})
        elif row["kind"] == "zset":
            client.zadd(key, {base64.b64decode(member): score for member, score in value})
        else:
            client.sadd(key, *map(base64.b64decode, value))
