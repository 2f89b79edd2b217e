"""The answer of a ranker without a base model: the candidates in the order they came. Documented, and not an error."""

from __future__ import annotations

from collections.abc import Sequence

from service.ranked import Question, Ranked


def unranked(question: Question, ids: Sequence[str]) -> Ranked:
    """Repeats and exclusions are left out; there are neither scores nor filters, for there is no catalogue yet."""
    unique = list(dict.fromkeys(ids))
    kept = [name for name in unique if name not in question.exclude]
    removed = {"duplicates": len(ids) - len(unique), "excluded": len(unique) - len(kept)}
    return Ranked(
        request_id=question.request_id,
        base=None,
        version=0,
        weights_version=0,
        arm=question.arm,
        ages_ms={"user": None, "counters": None, "weights": None},
        trained_through=None,
        stale=True,
        objective=question.objective.name,
        removed={**removed, "filtered": 0, "unavailable": 0},
        ids=kept[: question.top_k],
        mode="passthrough",
    )
