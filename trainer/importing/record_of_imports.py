"""import.json in the data directory: what was imported, when, and the constant added to its times. The page
shows it.

An import is noted before its first event and again when it is complete, so that one that was cut off goes
on with the same constant (its events that are in the log already count as duplicates), and a complete one
is not done twice.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from features.errors import InvalidInput

NAME = "import.json"


def read(data_dir: Path) -> dict[str, dict[str, Any]]:
    """Every import of this data directory by name; {} when there is none."""
    path = data_dir / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def is_complete(data_dir: Path, name: str) -> bool:
    """True when the import of this name reached its end."""
    return bool(read(data_dir).get(name, {}).get("complete"))


def begin(data_dir: Path, name: str, shift_to: str | None, last: int) -> int:
    """Note the start of an import and return the shift in ms: that of the same import where it was cut off.

    last: time of its last event before the shift. Raises InvalidInput when it is complete already.
    """
    refuse_known(data_dir, name)
    known = read(data_dir).get(name, {})
    shift: int = known["shift_ms"] if "shift_ms" in known else shift_for(shift_to, last)
    _write(data_dir, name, {"complete": False, "shift_ms": shift, "imported_at": _now()})
    return shift


def refuse_known(data_dir: Path, name: str) -> None:
    """Raise InvalidInput when an import of this name is complete."""
    known = read(data_dir).get(name, {})
    if known.get("complete"):
        when = datetime.fromtimestamp(known["imported_at"] / 1e3, UTC).isoformat(timespec="seconds")
        raise InvalidInput(
            f"{name} was imported into {data_dir} at {when} ({known.get('accepted', 0):,} events)",
            hint="its events are in the log; to import it anew, name another --data-dir",
        )


def finish(data_dir: Path, name: str, report: dict[str, Any]) -> None:
    """Note that an import is complete, with its report."""
    _write(data_dir, name, {**report, "complete": True, "imported_at": _now()})


def shift_for(shift_to: str | None, last: int) -> int:
    """The constant in ms that moves the time `last` to `now`, to an ISO-8601 time, or (None) nowhere."""
    if shift_to is None:
        return 0
    if shift_to == "now":
        return _now() - last
    try:
        wanted = datetime.fromisoformat(shift_to)
    except ValueError as error:
        hint = "give `now` or a time such as 2026-01-31T12:00:00Z"
        raise InvalidInput("this is no time", field="--shift-to", value=shift_to, hint=hint) from error
    return int(wanted.replace(tzinfo=wanted.tzinfo or UTC).timestamp() * 1_000) - last


def _now() -> int:
    return time.time_ns() // 1_000_000


def _write(data_dir: Path, name: str, entry: dict[str, Any]) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / NAME
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({**read(data_dir), name: entry}, indent=1), encoding="utf-8")
    temporary.replace(path)
