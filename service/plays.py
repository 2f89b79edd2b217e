"""What is done with a question (the switch, the control share, experiments), and the order that follows from it.

It counts what it decides. Who is in which arm is `experiments.py`'s matter, scores are the ranker's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.experiments import LIVE, PASSTHROUGH, Experiments, Play, shuffled, unit_key
from service.found import F32, Found
from service.metrics import Metrics
from service.objectives import order
from service.overlap import EVERY, overlaps
from service.ranked import Question
from service.replica import Replica


class Plays:
    """Of one ranker; safe from several threads."""

    def __init__(self, experiments: Experiments, replica: Replica, metrics: Metrics, base: str) -> None:
        """base: sha256 of the base that answers."""
        self._experiments, self._replica, self._metrics, self._base = experiments, replica, metrics, base
        self._retrieved = 0

    def of(self, question: Question, surface: int) -> Play:
        """What is done with this question: the switch first, then the control share, then experiments."""
        if surface in self._replica.passthrough:
            if question.log:
                self._metrics.passed.labels(str(surface)).inc()
            return PASSTHROUGH
        if question.arm == "control":
            if question.log:
                self._metrics.control.inc()
            return LIVE
        if not len(self._experiments) or not question.log:
            return LIVE
        key = unit_key(question.user, question.session, question.request_id)
        play = self._experiments.play(key, question.t, surface, self._replica.fixed(self._base))
        for name, arm in play.experiments.items():
            self._metrics.experiments.labels(name, arm).inc()
        return play

    def arranged(
        self, question: Question, play: Play, found: Found, coarse: F32, keys: F32
    ) -> tuple[npt.NDArray[np.int64], F32 | None]:
        """Places in answer order, and their propensities where an arm drew them."""
        if play.keeps_order:
            return np.arange(len(keys))[: question.top_k], None
        if play.does == "shuffle":
            whole = len(keys) if found.ids is not None else question.top_k or len(keys)
            places, chances = shuffled(keys, play, question.request_id, whole)
            return places[: question.top_k], chances[: question.top_k]
        if found.ids is None and question.log:
            self._compare(coarse, keys)
        return order(keys)[: question.top_k], None

    def _compare(self, coarse: F32, keys: F32) -> None:
        """Both stages' tops, now and then."""
        self._retrieved += 1
        if self._retrieved % EVERY == 1:
            for k, share in overlaps(coarse, keys):
                self._metrics.overlap.labels(str(k)).observe(share)
