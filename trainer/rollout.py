"""Another base is rolled out: staged, run beside the answering one, promoted (first to some users), reverted.

All of it follows control records, at the start of the cut that covers them (docs/formats.md §5):

  base-stage    {sha256, url}      rankers and the trainer fetch it; the pair beside, if there is one, is forgotten
  base-begin    {sha256, from}     by the trainer, once it has the files: the new pair learns from these offsets on
  base-promote  {sha256, percent}  behind the gate (`base_gate.py`); below 100 for that share of the users only
  base-revert   {}                 what was promoted last is taken back

It loads no files but through `base_of`, and follows the records of a replay as it did those of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from features.errors import ArtifactError
from service.artifact import Artifact
from service.weight_store import Beside, Version, decode_weights
from trainer.base_gate import BaseGate, Judged
from trainer.catch_up import LEAST, CatchUp
from trainer.gate import PRIOR
from trainer.hold import EVENT, Hold
from trainer.served import ServedIndex
from trainer.shadow import Shadow, ShadowState

if TYPE_CHECKING:
    from trainer.core import Core, Outcome

KINDS = ("base-stage", "base-begin", "base-promote", "base-revert")


RECENT = 16
"""Control records whose outcome is told to who asked, and looks a moment later."""


class RolloutState(msgspec.Struct):
    """What a checkpoint keeps beside the chunks of the pair's parts."""

    staged: str = ""
    promoted: bool = False
    percent: float = 0.0
    urls: dict[str, str] = {}
    last: dict[str, Any] = {}
    judged: Judged = msgspec.field(default_factory=Judged)
    shadow: ShadowState | None = None
    recent: list[dict[str, Any]] = []


class Rollout:
    """What stands beside the answering pair of a core. `staged`: a base that waits for its files; `shadow`: the pair;
    `promoted`: the answering base is the newer one; `last`, `recent`: what became of the last record, and of some."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.shadow: Shadow | None = None
        self.gate = BaseGate()
        self.staged = ""
        self.promoted = False
        self.percent = 0.0
        self.urls: dict[str, str] = {}
        self.last: dict[str, Any] = {}
        self.recent: list[dict[str, Any]] = []
        self._catch_up: CatchUp | None = None

    # control records

    def obey(self, kind: str, body: Mapping[str, Any], place: int, outcome: Outcome) -> bool:
        """Carry one out; True where another base answers now. What cannot be is noted in `last`, with the reason."""
        sha256 = str(body.get("sha256", ""))
        if kind == "base-begin":
            self._begin(sha256, body["from"], outcome)
            return False
        reason = {"base-stage": self._no_stage, "base-promote": self._no_promotion, "base-revert": self._no_revert}[
            kind
        ](sha256)
        percent = float(body.get("percent", 100.0))
        if kind == "base-promote" and not 0.0 < percent <= 100.0:
            reason = f"{percent:g} is no share of the users: more than 0, at most 100 percent"
        self.last = {"kind": kind, "sha256": sha256, "place": place, "done": reason is None, "reason": reason}
        if kind == "base-promote":
            self.last["figures"] = self.gate.figures()
        self.recent = [*self.recent, self.last | {"ask": str(body.get("ask", ""))}][-RECENT:]
        if reason is not None:
            self._core.learning.join.count("bases_refused")
            return False
        outcome.checkpoint = True
        if kind == "base-stage":
            self._stage(sha256, str(body.get("url", "")))
            return False
        if kind == "base-promote" and percent < 100.0:
            self.percent = percent
            return False
        return self._promote() if kind == "base-promote" else self._revert()

    def _no_stage(self, sha256: str) -> str | None:
        if sha256 == self._core.artifact.sha256:
            return f"base {sha256[:12]} answers already"
        if self.percent:
            return f"base {self._beside[:12]} answers {self.percent:g} % of the users: promote or revert it first"
        if sha256 in (self.staged, self._beside):
            return f"base {sha256[:12]} stands beside the answering one already"
        return None

    def _no_promotion(self, sha256: str) -> str | None:
        shadow = self.shadow
        if not sha256:
            return "no base stands beside the answering one: stage one first"
        if shadow is None or sha256 != shadow.base:
            waits = sha256 == self.staged
            return f"base {sha256[:12]} " + ("is not here yet: wait for its files" if waits else "is not staged")
        if not shadow.live:
            return f"base {sha256[:12]} has not caught up with the log yet: wait"
        held = self._core.learning.gate.held or shadow.learning.gate.held
        return f"the weights are held: {held}" if held else self.gate.refusal()

    def _no_revert(self, _: str) -> str | None:
        return None if self.percent or self.promoted else "nothing was promoted that could be reverted"

    @property
    def _beside(self) -> str:
        return "" if self.shadow is None else self.shadow.base

    def _stage(self, sha256: str, url: str) -> None:
        live = self._core.artifact.sha256
        self.reset()
        self.staged = sha256
        self.urls = {name: place for name, place in self.urls.items() if name == live} | {sha256: url}

    def reset(self) -> None:
        """Nothing stands beside the answering pair."""
        self.shadow = self._core.arrivals.shadow = self._catch_up = None
        self.staged, self.promoted, self.percent, self.gate = "", False, 0.0, BaseGate()

    def _begin(self, sha256: str, start: Mapping[str, int], outcome: Outcome) -> None:
        if sha256 != self.staged:
            return  # written twice, or another one was staged meanwhile
        shadow = self._pair(self._core.base(sha256, self.urls.get(sha256, "")))
        shadow.learning.skipped = list(self._core.learning.skipped)
        shadow.cursor = {name: int(at) for name, at in start.items()}
        self._stand_beside(shadow)
        self.staged = ""
        outcome.checkpoint = True

    def _pair(self, artifact: Artifact) -> Shadow:
        core = self._core
        core.require_schema(artifact, "staged", "sha256")
        learning = core.new_learning(artifact)
        return Shadow(artifact, learning, core.reconstructor(artifact), core.served, core.users)

    def _stand_beside(self, shadow: Shadow) -> None:
        self.shadow = self._core.arrivals.shadow = shadow
        self._catch_up = None if shadow.live else CatchUp(self._core.event_log, shadow, self._core.dedup)
        self.follow_rules()

    def _promote(self) -> bool:
        self._swap()
        self.promoted, self.percent = True, 0.0
        return True

    def _revert(self) -> bool:
        if self.percent:
            self.percent = 0.0
            return False
        self._swap()
        self.promoted = False
        return True

    def _swap(self) -> None:
        """The pair beside answers, and the one that answered goes on beside it."""
        core, new = self._core, self.shadow
        assert new is not None
        old = Shadow(core.artifact, core.learning, core.arrivals.reconstruct, core.served, core.users)
        old.live, old.weights_version, old.watermark = True, core.weights_version, core.watermark
        new.learning.hold.exchange(old.learning.hold, EVENT)
        joins = new.learning.join, old.learning.join
        joins[0].counts, joins[1].counts = joins[1].counts, joins[0].counts  # those of the answering pair go on
        core.answer_with(new.artifact, new.learning, new.reconstruct)
        core.weights_version = new.weights_version
        for join in joins:
            join.mark_changed()  # the names of their chunks have changed places
        self.gate.swap()
        self._stand_beside(old)

    # cuts

    def begin_cut(self, v: int, kept: float) -> None:
        """Start of cut v, which learns this share of its negatives."""
        if self.shadow is not None:
            self.shadow.learning.join.begin(v, kept)

    def end_cut(self, v: int, records: int) -> None:
        """End of cut v, which covered so many records: behind the log a pair reads on; beside it, it is judged."""
        core, shadow = self._core, self.shadow
        if shadow is None:
            return
        if self._catch_up is not None:
            budget = max(LEAST, 2 * records)
            shadow.live = self._catch_up.step(core.offsets, budget, core.rules.hold_ms, core.generation)
            if shadow.live:
                self._catch_up = None
                shadow.use_served(core.served)
        else:
            for ranking, t in shadow.fresh:
                self.gate.show(ranking, t + core.rules.negative_after_ms)
            shadow.fresh.clear()
            self.gate.judge(core.watermark - core.rules.hold_ms, core.learning.join, shadow.learning.join)
        if shadow.live:
            shadow.watermark = core.watermark
        shadow.push(v, core.watermark, core.offsets, core.generation)

    def follow_rules(self, *, resized: bool = False) -> None:
        """The core's rules have changed, or the pair has."""
        shadow, rules = self.shadow, self._core.rules
        if shadow is None:
            return
        shadow.learning.follow(
            rules.join(), noise=rules.process_noise, rate=rules.learning_rate, resized=resized
        )
        shadow.learning.join.infer = shadow.infer if rules.infer_shown else None

    def roll_back(self, to: int, version: Version | None, skip: list[tuple[int, int]]) -> None:
        """An operator rolls back to a version: the pair beside goes back to what it was there, else to its prior."""
        if self.shadow is not None:
            weights = None if version is None else version.weights_of(self.shadow.base)
            means = None if weights is None else decode_weights(weights)
            self.shadow.learning.roll_back(PRIOR if means is None else to, means, self.shadow.watermark, skip)

    def skip(self, skipped: list[tuple[int, int]]) -> None:
        """Rankings of these event places teach nothing from now on."""
        if self.shadow is not None:
            self.shadow.learning.skip(skipped)

    # what is published and stored

    def beside(self) -> Beside | None:
        """For the version."""
        shadow = self.shadow
        if shadow is None:
            return Beside(self.staged, self.urls.get(self.staged, "")) if self.staged else None
        url = self.urls.get(shadow.base, "")
        return Beside(
            shadow.base, url, shadow.learning.last, shadow.weights_version, shadow.watermark, shadow.live, self.percent
        )

    def holds(self) -> list[Hold]:
        """Of the answering pair, and of one that is beside it."""
        return [self._core.learning.hold] + ([] if self.shadow is None else [self.shadow.learning.hold])

    def kept(self) -> list[int]:
        """Versions that the gate of the pair beside may be asked to go back to, once it answers."""
        return [] if self.shadow is None else [one.v for one in self.shadow.learning.gate.state.snapshots]

    def status(self) -> dict[str, Any]:
        """Plain JSON values for people."""
        shadow, core = self.shadow, self._core
        names = [] if shadow is None else sorted(shadow.cursor)
        left = sum(max(0, core.offsets.get(name, 0) - shadow.cursor[name]) for name in names) if shadow else 0
        return {
            "live": core.artifact.sha256,
            "staged": self.staged or None,
            "beside": self._beside or None,
            "state": self._word(),
            "behind": 0 if shadow is None or shadow.live else left,
            "percent": self.percent,
            "figures": self.gate.figures(),
            "hinders": None if shadow is None or self.promoted else self._no_promotion(shadow.base),
            "counts": {} if shadow is None else dict(shadow.learning.join.counts),
            "last": self.last,
            "recent": self.recent,
        }

    def _word(self) -> str:
        if self.shadow is None:
            return "fetching" if self.staged else "alone"
        if not self.shadow.live:
            return "catching up"
        return "promoted" if self.promoted else ("answering some" if self.percent else "caught up")

    def state(self) -> RolloutState:
        """For a checkpoint."""
        shadow = None if self.shadow is None else self.shadow.state()
        return RolloutState(
            self.staged, self.promoted, self.percent, dict(self.urls), self.last, self.gate.state(), shadow,
            self.recent,
        )  # fmt: skip

    def adopt(self, state: RolloutState) -> None:
        """The inverse of `state`; the chunks of the pair's parts follow. Raises ArtifactError."""
        self.staged, self.promoted, self.percent = state.staged, state.promoted, state.percent
        self.urls, self.last, self.gate = dict(state.urls), state.last, BaseGate(state.judged)
        self.recent = list(state.recent)
        if state.shadow is not None:
            shadow = self._pair(self._core.base(state.shadow.base, self.urls.get(state.shadow.base, "")))
            shadow.live = state.shadow.live
            self._stand_beside(shadow)

    def forget_served(self, fresh: ServedIndex) -> None:
        """The log was left for another one: what was still to be read in it is gone, and the pair goes on live."""
        if self.shadow is not None:
            self._catch_up, self.shadow.live = None, True
            self.shadow.use_served(fresh)

    @property
    def reading(self) -> CatchUp | None:
        """What reads behind the log, while there is something to read although nothing new came."""
        return self._catch_up


def base_needed(found: Artifact | None, sha256: str) -> Artifact:
    """The base, or ArtifactError with what to do."""
    if found is None:
        raise ArtifactError(
            f"base {sha256} is not here, and records of the log speak of it",
            field="sha256",
            value=sha256,
            hint="fetch it again: `repl-ranker base fetch PATH|URL`",
        )
    return found
