"""The numbers of /v1/status: what the page and a glance at the service need. It measures nothing itself."""

from __future__ import annotations

import json
from typing import Any

from features.errors import LogError, StoreError
from service.behind import behind
from service.core import Service
from service.ranked import Question


def _import_shift(service: Service) -> int | None:
    """The constant that an import added to every time, ms; None where nothing was moved."""
    path = service.settings.data_dir / "import.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        shifts = [int(entry.get("shift_ms", 0)) for entry in entries.values()]
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return next((shift for shift in shifts if shift), None)


def trainer_numbers(service: Service) -> dict[str, Any]:
    """What the trainer last said of itself, and how far it is behind the log now; {} where there is no trainer."""
    try:
        found = service.store.status()
    except StoreError:
        return {}
    if found:
        found["behind"] = _trainer_behind(service)
    return found


def _trainer_behind(service: Service) -> dict[str, int] | None:
    """Seen from here, so that it is also true of a trainer that is down; None where the log does not answer."""
    try:
        read_through = service.running.replica.snapshot.offsets
        return behind(service.log, read_through, service.clock())._asdict()
    except LogError:
        return None


def numbers(service: Service) -> dict[str, Any]:
    """Everything but the request id; raises NotReady before the engine is loaded."""
    running = service.running
    snapshot = running.replica.snapshot
    question = Question("status", service.clock(), service.objectives.get(None), "live")
    fresh = running.freshness.of(question, snapshot, count=False)
    return {
        "base": running.engine.artifact.sha256,
        "version": snapshot.version,
        "weights_version": snapshot.weights_version,
        "ages_ms": fresh.ages_ms,
        "trained_through": fresh.trained_through,
        "stale": fresh.stale,
        "stale_reason": running.freshness.reason(question),
        "bases": running.bases_status(),
        "items": len(running.engine.catalogue),
        "items_waiting": running.encoder.waiting,
        "events": service.intake.totals(),
        "events_per_second": round(service.intake.rate(), 2),
        "served": {
            "written": running.impressions.written,
            "waiting": running.impressions.waiting,
            "dropped": running.impressions.dropped,
            "bytes": running.impressions.bytes,
        },
        "import_shift_ms": _import_shift(service),
        "objectives": service.objectives.names,
        "behind": running.events_behind(),
        "trainer": trainer_numbers(service),
    }
