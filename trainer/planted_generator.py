"""A made-up shop whose users × items interactions are known: what a network has to find and counters cannot see.

Every user likes a few words; items are many, each shown rarely, with titles of three words; a shown item is clicked
far more often when its title holds a liked word. Item counters, co-visitation and own history say almost nothing about
an item shown for the second time to anybody, so what the network adds over the last layer is what was planted. It
simulates no positions, no drift and no queries (trainer/drift_generator.py does drift).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from features.events import Event, InteractionEvent, ItemEvent, RankingEvent, ShownItem

START = 1_700_000_000_000
STEP_MS = 20_000


@dataclass(frozen=True)
class Planted:
    """Sizes; each user likes `liked` of `words`; logit of a click: `base`, and `gain` where the title holds one."""

    users: int = 150
    items: int = 3_000
    words: int = 40
    liked: int = 4
    rankings: int = 8_000
    shown: int = 12
    base: float = -2.5
    gain: float = 3.0
    bought: float = 0.3
    seed: int = 5


def events(planted: Planted) -> Iterator[Event]:
    """Items first, then rankings with their clicks and purchases, in time order. Same arguments, same events."""
    rng = np.random.default_rng(planted.seed)
    titles = np.array([rng.choice(planted.words, 3, replace=False) for _ in range(planted.items)])
    likes = np.array([rng.choice(planted.words, planted.liked, replace=False) for _ in range(planted.users)])
    for item, words in enumerate(titles):
        title = " ".join(f"word{word:02d}" for word in words)
        yield ItemEvent(id=f"item-{item}", timestamp=START, item=f"i{item}", fields={"title": title})
    for number in range(planted.rankings):
        yield from _visit(planted, rng, number, titles, likes)


def _visit(
    planted: Planted, rng: np.random.Generator, number: int, titles: np.ndarray, likes: np.ndarray
) -> Iterator[Event]:
    user, t = int(rng.integers(planted.users)), START + (number + 1) * STEP_MS
    shown = rng.choice(planted.items, planted.shown, replace=False)
    items = tuple(ShownItem(id=f"i{item}", position=place) for place, item in enumerate(shown, start=1))
    yield RankingEvent(id=f"r{number}", timestamp=t, items=items, user=f"u{user}")
    held = np.isin(titles[shown], likes[user]).any(axis=1)
    chance = 1 / (1 + np.exp(-(planted.base + planted.gain * held)))
    for at in np.flatnonzero(rng.random(planted.shown) < chance):
        kinds = ["click", "purchase"] if rng.random() < planted.bought else ["click"]
        for later, kind in enumerate(kinds, start=1):
            yield InteractionEvent(
                id=f"{kind}-{number}-{at}",
                timestamp=t + int(at) * 500 + later * 200,
                type=kind,
                item=f"i{shown[at]}",
                user=f"u{user}",
                ranking=f"r{number}",
            )
