"""Control records: rollback, skip, pin, another base, other settings, at the start of the cut that covers them.

It carries out what a record says of a core (docs/formats.md §5) and writes nothing; a rollout's are `rollout.py`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from features.errors import UnknownVersion
from features.records import (
    MAX_PARTITIONS,
    Cut,
    Offsets,
    Record,
    Stream,
    control_body,
    partitions_in,
    place,
    split_key,
)
from service.weight_store import Kind, Version, decode_weights
from trainer.gate import PRIOR
from trainer.rollout import KINDS
from trainer.rules import Rules

if TYPE_CHECKING:
    from trainer.core import Core, Outcome

log = logging.getLogger(__name__)
EVENT: Stream = "event"


class Control:
    """What control records do to a core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def obey(self, record: Record, cut: Cut, outcome: Outcome) -> Kind | None:
        """Carry one out; the kind of version that makes (None: an ordinary one). What cannot be is a dead letter."""
        try:
            body = control_body(record.kind, record.body)
            if record.kind in KINDS:
                return "base" if self._core.rollout.obey(record.kind, body, record.place, outcome) else None
            return self._carry_out(record.kind, body, cut, outcome)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, UnknownVersion) as error:
            self._core.learning.join.count("control_refused")
            outcome.dead.append((record, f"control record refused: {error}"))
            log.error("a control record was refused", extra={"offset": record.offset, "reason": str(error)})
            if self._core.learning.gate.state.wanted is not None:
                self._core.learning.gate.state.wanted["to"] = PRIOR
            return None

    def _carry_out(self, kind: str, body: dict[str, Any], cut: Cut, outcome: Outcome) -> Kind | None:
        if kind in ("pin", "unpin"):
            if kind == "pin":
                self._earlier(int(body["version"]))
            outcome.pins[int(body["version"])] = kind == "pin"
        elif kind == "rollback":
            return self._roll_back(body, cut, outcome)
        elif kind == "skip":
            self._skip(str(body["applies_to"]), self.ranges(body))
        elif kind == "base":
            return self._change_base(str(body["sha256"]), outcome)
        elif kind == "settings":
            self._change_rules(body)
        else:
            raise ValueError(f"unknown kind {kind!r}")
        return None

    def _roll_back(self, body: dict[str, Any], cut: Cut, outcome: Outcome) -> Kind | None:
        if body.get("base") not in (None, self._core.artifact.sha256):
            return None  # a gate asked for it whose pair answers no more: there it has been done
        to, means, start = int(body["to"]), None, Offsets()
        version = None if to == PRIOR else self._earlier(to)
        if version is not None:
            weights = version.weights_of(self._core.artifact.sha256)
            if weights is None:
                raise ValueError(f"version {to} is of another base")
            means, start = decode_weights(weights), version.offsets
            outcome.keep.append(to)
        skip = self.ranges(body.get("skip") or {"from": start, "to": cut.offsets})
        if body.get("counters"):
            self._core.rebuild(self._core, skip, outcome)
        self._core.learning.roll_back(to, means, self._core.watermark, skip)
        if body.get("by") != "gate":  # the pair beside has a gate of its own
            self._core.rollout.roll_back(to, version, skip)
        self._core.learning.join.count("rollbacks")
        outcome.checkpoint = True
        return "rollback"

    def _earlier(self, v: int) -> Version:
        """A version from before this cut. One that did not exist when the record was met is refused by number, or
        a replay, when it does exist, would do otherwise."""
        if not v <= self._core.v:
            raise ValueError(f"version {v} did not exist yet")
        return self._core.weights_of(v)

    def _skip(self, what: str, skipped: list[tuple[int, int]]) -> None:
        if what == "weights":
            self._core.learning.skip(skipped)
            self._core.rollout.skip(skipped)
        else:
            self._core.arrivals.skips[what] += skipped

    def ranges(self, skip: Mapping[str, Any]) -> list[tuple[int, int]]:
        """A {from, to} of offset maps as ranges of places of the event stream, one a partition that `to` names."""
        found = []
        for name in partitions_in(EVENT, skip["to"]):
            partition = split_key(name)[1] | self._core.generation * MAX_PARTITIONS
            start, end = int(skip["from"].get(name, 0)), int(skip["to"][name])
            found.append((place(partition, start), place(partition, end)))
        if not found:
            raise ValueError("a range names no partition of the stream event")
        return found

    def _change_rules(self, body: dict[str, Any]) -> None:
        changed = {name: body[name] for name in Rules.__struct_fields__ if name in body}
        rules = msgspec.convert(msgspec.structs.asdict(self._core.rules) | changed, Rules)
        resized = rules.join_capacity != self._core.rules.join_capacity
        self._core.rules = rules
        self._core.learning.follow(
            rules.join(), noise=rules.process_noise, rate=rules.learning_rate, resized=resized
        )
        self._core.rollout.follow_rules(resized=resized)
        self._core.set_infer()

    def _change_base(self, sha256: str, outcome: Outcome) -> Kind | None:
        if sha256 == self._core.artifact.sha256:
            self._core.configured = sha256
            return None
        artifact = self._core.base_of(sha256)
        if artifact is None:
            raise ValueError(f"base {sha256} is not here")
        self._core.configured = sha256
        self._core.change_base(artifact)
        outcome.checkpoint = True
        return "base"
