"""The store of user states with a stopwatch around its calls. It changes nothing that they do."""

from __future__ import annotations

import time
from typing import Any, cast

from prometheus_client import Histogram

from features.feature_store import FeatureStore

TIMED = ("get", "read", "commit", "offsets")


class _Timed:
    """Every call of TIMED is measured, whether it succeeds or fails; everything else is the store's own."""

    def __init__(self, store: FeatureStore, seconds: Histogram) -> None:
        self._store = store
        for name in (one for one in TIMED if hasattr(store, one)):
            setattr(self, name, self._measured(getattr(store, name), seconds.labels(name)))

    @staticmethod
    def _measured(call: Any, seconds: Any) -> Any:
        def measured(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                seconds.observe(time.perf_counter() - began)

        return measured

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def timed(store: FeatureStore, seconds: Histogram) -> FeatureStore:
    """The same store, measured; `seconds` has the one label `call`."""
    return cast(FeatureStore, _Timed(store, seconds))
