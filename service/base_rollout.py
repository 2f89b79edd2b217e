"""What the command line and the HTTP routes of a rollout have in common: bodies of control records, and what became of
one. It appends none and waits for nothing (`cli_base.py`, `routes/bases.py`), and carries out none: the trainer does.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.errors import InvalidRequest
from service.base_fetch import fetch
from service.engine import find_installed
from service.settings import Settings
from service.weight_store import WeightStore

_SHA256 = re.compile(r"[0-9a-f]{64}")


def said(store: WeightStore) -> dict[str, Any]:
    """What the trainer last said of bases; {} where there is none. Raises StoreError."""
    found: dict[str, Any] = store.status().get("bases", {})
    return found


def status(store: WeightStore) -> dict[str, Any]:
    """The same with the newest version (None before there is one)."""
    latest = store.latest()
    return {"version": None if latest is None else latest.v, **said(store)}


def asked(body: dict[str, Any]) -> dict[str, Any]:
    """A body with a name for this one wish: what became of it is found by that, whoever else asks meanwhile."""
    return {**body, "ask": uuid.uuid4().hex}


def became(store: WeightStore, body: dict[str, Any], place: int) -> dict[str, Any] | None:
    """What became of a control record with this body (of `asked`): {…body, offset, done, reason, figures?, pending:
    False}; None while the trainer has not said."""
    for one in said(store).get("recent", []):
        if one["ask"] == body["ask"]:
            answered = {name: value for name, value in one.items() if name in ("done", "reason", "figures")}
            return {**body, "offset": place, **answered, "pending": False}
    return None


def fetched(settings: Settings, source: str) -> str:
    """Fetch a base into this data directory; its sha256. Raises ArtifactError, SchemaError."""
    return fetch(source, settings.data_dir / "base").sha256


def stage_body(settings: Settings, source: str) -> dict[str, Any]:
    """Of `base-stage`, for a base that is fetched here first. Raises ArtifactError, SchemaError."""
    url = source if "://" in source else str(Path(source).resolve())
    return {"sha256": fetched(settings, source), "url": url}


def installed_body(settings: Settings, sha256: str) -> dict[str, Any] | None:
    """Of `base-stage`, for a base that this data directory (or `base_dir`) holds; None for a text that names none."""
    if not _SHA256.fullmatch(sha256) or find_installed(settings, sha256) is None:
        return None
    return {"sha256": sha256, "url": ""}


def promote_body(store: WeightStore, base: str, percent: float) -> dict[str, Any]:
    """Of `base-promote`; base: "" for the one beside."""
    return {"sha256": base or said(store).get("beside") or "", "percent": percent}


def allowed_source(source: str, prefixes: Sequence[str]) -> str:
    """A source that lies under one of the prefixes, as it is to be fetched: links of a directory are followed first.

    Raises InvalidRequest where it lies under none, and for an address that could name something else than it seems to.
    """
    try:
        found = _address(source, prefixes) if "://" in source else _directory(source, prefixes)
    except (ValueError, OSError, RuntimeError):  # no path or address at all: a zero byte, links in a circle
        found = None
    if found is None:
        hint = "stage a base by the sha256 it was fetched under, allow the place by the setting base_sources, or use"
        hint += " `repl-ranker base stage`"
        raise InvalidRequest("nothing is staged from there over HTTP", field="source", value=source, hint=hint)
    return found


def _directory(source: str, prefixes: Sequence[str]) -> str | None:
    place = Path(source).resolve()
    roots = [Path(prefix).resolve() for prefix in prefixes if "://" not in prefix]
    return str(place) if any(place.is_relative_to(root) for root in roots) else None


def _address(source: str, prefixes: Sequence[str]) -> str | None:
    """Below a prefix, letter by letter: no user, query, fragment, escapes, backslashes or dots that lead elsewhere."""
    below = any("://" in prefix and f"{source}/".startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)
    return source if below and not re.search(r"[@?#%\\\s]|/\.{1,2}(/|$)", source) else None
