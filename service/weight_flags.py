"""Flags of the weight store: a few small switches that every ranker reads, and their bounds. It stores none.

Names so far: `mode/SURFACE` (`service/passthrough.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from features.errors import InvalidRequest

MAX_FLAGS, MAX_NAME, MAX_VALUE = 64, 64, 256


def check_flags(known: Collection[str], changes: Mapping[str, str | None]) -> None:
    """Raises InvalidRequest where a name or a value is too long, or there would be more than MAX_FLAGS."""
    for name, value in changes.items():
        if not 0 < len(name.encode()) <= MAX_NAME or len((value or "").encode()) > MAX_VALUE:
            raise InvalidRequest(
                f"a flag has a name of 1 to {MAX_NAME} bytes and a value of {MAX_VALUE} at most",
                field=name[:MAX_NAME],
                value=value,
                hint="shorten it",
            )
    new = {name for name, value in changes.items() if value is not None}
    left = len((set(known) | new) - (changes.keys() - new))
    if left > MAX_FLAGS:
        raise InvalidRequest(
            f"there would be {left} flags, {MAX_FLAGS} is the limit", value=left, hint="remove some (value null)"
        )
