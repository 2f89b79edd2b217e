"""Which arm a request is in: `control` is ranked by the frozen prior. A pure function of who asks."""

from __future__ import annotations

from typing import Literal

import xxhash

Arm = Literal["live", "control"]


def arm_of(user: str | None, session: str | None, request_id: str, share: float) -> Arm:
    """The arm, by a hash of the user, else the session, else the request: the same actor stays in hers."""
    who = user or session or request_id
    place = xxhash.xxh3_64_intdigest(b"arm\0" + who.encode()) / 2**64
    return "control" if place < share else "live"
