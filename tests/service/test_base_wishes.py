"""What became of a wish about bases, told to who asked, and to nobody else."""

from __future__ import annotations

from typing import Any, cast

from service.base_rollout import asked, became
from service.weight_store import WeightStore


class Said:
    """The status row of a store."""

    def __init__(self, recent: list[dict[str, Any]]) -> None:
        self._recent = recent

    def status(self) -> dict[str, Any]:
        return {"bases": {"recent": self._recent, "last": self._recent[-1]}}


def test_two_who_ask_at_once_are_told_their_own() -> None:
    promote, revert, later = (asked({"sha256": "a"}), asked({}), asked({}))
    recent = [
        {"ask": promote["ask"], "place": 7, "done": False, "reason": "it is worse", "figures": {"ratio": 1.1}},
        {"ask": revert["ask"], "place": 8, "done": True, "reason": None},
    ]
    store = cast(WeightStore, Said(recent))
    first, second = became(store, promote, 7), became(store, revert, 8)
    assert first is not None
    assert second is not None
    assert (first["done"], first["reason"], first["figures"]) == (False, "it is worse", {"ratio": 1.1})
    assert second["done"]
    assert became(store, later, 3) is None, "whatever stood at such an offset of another log"
