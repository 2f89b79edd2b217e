"""Dropping what need not be kept of the weight store in Redis, in pieces. What is kept says `weight_keeping.py`.

A kill between two pieces leaves nothing wrong: versions go before nobody needs them, a checkpoint goes with its claims
on chunks in one transaction, and chunks and user states that are left over are found by the next call.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Any

from features.errors import StoreError
from features.redis_client import Pipeline, RedisPlace
from service.weight_keeping import Keeping, checkpoints_over, keep_versions
from service.weight_redis_commit import counted
from service.weight_redis_keys import PIECE_KEYS, Keys, batches, decoded, size_of, unseal
from service.weight_redis_writer import Writer
from service.weight_version import Checkpoint

log = logging.getLogger(__name__)

SHARE = 0.5
"""Of maxmemory: old checkpoints never fill a Redis that user states and new versions need."""


class Thinner:
    """Thins one tenant's weight store. One thread: the writer's."""

    def __init__(self, place: RedisPlace, keys: Keys, writer: Writer, keeping: Keeping, max_bytes: int) -> None:
        self._place, self._keys, self._writer = place, keys, writer
        self._keeping, self._max_bytes = keeping, max_bytes

    def thin(self, now: int, keep: Collection[int]) -> dict[str, int]:
        """See `WeightStore.thin`."""
        ages, points, changes, pins, size = self._found()
        rows = [(v, created, v in set(points)) for v, created in ages]
        kept = keep_versions(rows, pins.union(keep), now, self._keeping)
        drop = [v for v, _ in ages if v not in kept]
        budget = self._budget()
        over = self._over_budget([v for v in points if v in kept], pins, budget) if size > budget else set()
        old = [v for v in points if v not in kept or v in over]
        oldest_change = points[-2] if len(points) > 1 else 0
        recent = [v for v, created in ages if created >= now - 60_000]
        late = min(recent, default=ages[-1][0] + 1 if ages else 0)
        passed = [v for v in changes if v <= min(oldest_change, late - 1)]
        for v in old:
            self._writer.write("drop a checkpoint", partial(self._drop_checkpoint, v=v))
        for some in batches(drop):
            self._writer.write("drop versions", partial(self._drop_versions, some=some))
        for some in batches(passed):
            self._writer.write("drop changes", partial(self._drop_changes, some=some))
        self._pass_states_on([v for v in points if v not in set(old)])
        unused = 0
        while dropped := self._writer.write("drop chunks", self._drop_chunks):
            unused += dropped
        return {"versions": len(drop), "checkpoints": len(old), "changes": len(passed), "chunks": unused}

    def _found(self) -> tuple[list[tuple[int, int]], list[int], list[int], set[int], int]:
        """(v, created) of versions, checkpoints, changes, all ascending; pinned and kept ones; bytes of chunks."""
        keys = self._keys

        def ask(pipe: Pipeline) -> None:
            for key in (keys.versions, keys.checkpoints, keys.changes, keys.pins):
                pipe.zrange(key, 0, -1)
            pipe.smembers(keys.kept)
            pipe.get(keys.bytes)

        versions, points, changes, pins, kept, size = self._place.read("read what is kept", ask)
        ages = [(int(v), int(created)) for v, _, created in (bytes(one).partition(b":") for one in versions)]
        return ages, _numbers(points), _numbers(changes), {*_numbers(pins), *_numbers(kept)}, int(size or 0)

    def _budget(self) -> int:
        """What chunks may take: the setting, and never more than this share of what Redis may use."""
        most = self._place.maxmemory()
        return self._max_bytes if most is None else min(self._max_bytes, int(SHARE * most))

    def _over_budget(self, points: list[int], pins: set[int], budget: int) -> set[int]:
        """Checkpoints to drop, oldest first, so that the chunks of the rest take at most `budget` bytes."""
        sizes: dict[str, int] = {}
        with self._place.errors("read chunk sizes") as client:
            for sha, entry in client.hscan_iter(self._keys.chunks, count=500):
                sizes[bytes(sha).decode()] = size_of(entry)
            named = {v: set(self._shas(client.get(self._keys.checkpoint(v)), v)) for v in points}
        return checkpoints_over(named, sizes, pins, budget)

    def _shas(self, data: Any, v: int) -> list[str]:
        """The chunks that checkpoint v names; none, and a line in the log, where its manifest is damaged."""
        key = self._keys.checkpoint(v)
        try:
            found = decoded(key, unseal(key, bytes(data or b"")), Checkpoint)
        except StoreError as error:
            log.error("a checkpoint goes without its chunks", extra={"version": v, "reason": error.message})
            return []
        return sorted(set(found.chunks.values()))

    def _drop_checkpoint(self, pipe: Pipeline, v: int) -> None:
        """Checkpoint v and its claims on chunks; its user states are passed on later."""
        keys = self._keys
        shas = self._shas(pipe.get(keys.checkpoint(v)), v)
        found = pipe.hmget(keys.chunks, shas) if shas else []
        left = {sha: counted(entry, -1) for sha, entry in zip(shas, found, strict=True) if entry is not None}
        free = [sha for sha, entry in left.items() if entry.startswith("0:")]
        pipe.multi()
        pipe.unlink(keys.checkpoint(v))
        pipe.zrem(keys.checkpoints, str(v))
        if left:
            pipe.hset(keys.chunks, mapping=dict(left))
        if free:
            pipe.sadd(keys.unused, *free)

    def _drop_versions(self, pipe: Pipeline, some: list[int]) -> None:
        pipe.multi()
        pipe.unlink(*(self._keys.version(v) for v in some))
        for v in some:
            pipe.zremrangebyscore(self._keys.versions, v, v)

    def _drop_changes(self, pipe: Pipeline, some: list[int]) -> None:
        pipe.multi()
        pipe.unlink(*(self._keys.change(v) for v in some))
        pipe.zrem(self._keys.changes, *some)

    def _drop_chunks(self, pipe: Pipeline) -> int:
        """Some chunks that no checkpoint names; how many."""
        keys = self._keys
        shas = [bytes(sha).decode() for sha in pipe.srandmember(keys.unused, PIECE_KEYS) or []]
        found = pipe.hmget(keys.chunks, shas) if shas else []
        sizes = [0 if entry is None else size_of(entry) for entry in found]
        size = sum(sizes)
        pipe.multi()
        if shas:
            pipe.unlink(*(key for sha, large in zip(shas, sizes, strict=True) for key in keys.parts(sha, large)))
            pipe.hdel(keys.chunks, *shas)
            pipe.srem(keys.unused, *shas)
            pipe.decrby(keys.bytes, size)
        return len(shas)

    # user states of checkpoints that are gone

    def _pass_states_on(self, points: list[int]) -> None:
        """States of a checkpoint that is gone pass to the next one, unless that has newer ones."""
        with self._place.errors("read user states") as client:
            sets = _numbers(client.zrange(self._keys.state_sets, 0, -1))
        for v in (v for v in sets if v not in set(points)):
            after = next((point for point in points if point > v), None)
            if after is not None:  # else: of a checkpoint that is being written, or was not
                before = max((point for point in points if point < v), default=0)
                while self._pass_some(v, before, after):
                    pass

    def _pass_some(self, v: int, before: int, after: int) -> bool:
        """Some users of the set of v: of their states in (before, after] the newest stays. False: none are left."""
        keys = self._keys
        with self._place.errors("read user states") as client:
            names = [bytes(name) for name in client.srandmember(keys.state_set(v), PIECE_KEYS) or []]
        fields = self._place.read(
            "read user states", lambda pipe: [pipe.hkeys(keys.user(int(name, 16))) for name in names]
        )

        def queue(pipe: Pipeline) -> None:
            pipe.multi()
            for name, found in zip(names, fields, strict=True):
                seen = sorted(at for at in _numbers(found) if before < at <= after)
                if seen[:-1]:
                    pipe.hdel(keys.user(int(name, 16)), *(str(at) for at in seen[:-1]))
                if seen:
                    pipe.sadd(keys.state_set(after), name)
            if names:
                pipe.srem(keys.state_set(v), *names)
                pipe.zadd(keys.state_sets, {str(after): after})
            else:
                pipe.zrem(keys.state_sets, str(v))

        self._writer.write("pass user states on", queue)
        return bool(names)


def _numbers(found: Collection[bytes]) -> list[int]:
    return [int(one) for one in found]
