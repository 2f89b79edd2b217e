"""Seeded items, users and requests for the benches. Titles are made of words; prices and clicks mean nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import orjson

from trainer.bench.client import RawClient

_TEXT = (
    "red blue green white vintage glass metal wooden lantern lamp mug clock bag box heart star rose bird "
    "tin garden kitchen party paper candle holder set small large retro hanging doormat"
)
WORDS = _TEXT.split()
BATCH = 5_000


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def item_events(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """`count` items i0, i1, … with title, category, brand and price."""
    rng, now = random.Random(seed), now_ms()
    for k in range(count):
        fields = {
            "title": " ".join(rng.choices(WORDS, k=4)),
            "category": f"c{rng.randrange(200)}",
            "brand": f"b{rng.randrange(500)}",
            "price": round(rng.uniform(0.5, 60), 2),
        }
        yield {"id": f"item-{k}", "timestamp": now, "event": "item", "item": f"i{k}", "fields": fields}


def click_events(users: int, each: int, items: int, seed: int = 2) -> Iterator[dict[str, Any]]:
    """`each` interactions of every user u0, u1, …, a minute apart, the last one a minute ago."""
    rng, now = random.Random(seed), now_ms()
    for step in range(each):
        for user in range(users):
            yield {
                "id": f"click-{user}-{step}",
                "timestamp": now - (each - step) * 60_000,
                "event": "interaction",
                "type": rng.choices(("click", "cart", "purchase"), (8, 2, 1))[0],
                "item": f"i{min(int(rng.expovariate(1 / (items / 8))), items - 1)}",
                "user": f"u{user}",
            }


def send_all(client: RawClient, events: Iterator[dict[str, Any]]) -> int:
    """Send events in batches; returns how many were taken. RuntimeError when one was refused."""
    taken, batch = 0, []
    for event in events:
        batch.append(event)
        if len(batch) == BATCH:
            taken += _send(client, batch)
            batch = []
    return taken + (_send(client, batch) if batch else 0)


def _send(client: RawClient, batch: list[dict[str, Any]]) -> int:
    status, answer = client.call("POST", "/v1/events", batch)
    if status != 200 or answer["rejected"]:
        raise RuntimeError(f"events were refused: {status} {str(answer)[:300]}")
    return int(answer["accepted"])


def wait_until_encoded(client: RawClient, items: int, seconds: float = 300.0) -> None:
    """Wait until the catalogue holds `items` items, all of them encoded."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status, answer = client.call("GET", "/v1/status")
        if status == 200 and answer["items"] >= items and answer["items_waiting"] == 0:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{items} items were not encoded within {seconds:g} s")


def rank_bodies(candidates: int, items: int, users: int, count: int, seed: int = 3) -> list[bytes]:
    """`count` rank requests of `candidates` distinct known items, each of another user."""
    rng = random.Random(seed)
    bodies = []
    for _ in range(count):
        chosen = rng.sample(range(items), candidates)
        body = {"user": f"u{rng.randrange(users)}", "items": [f"i{k}" for k in chosen]}
        bodies.append(orjson.dumps(body))
    return bodies
