"""A version's way into Redis: chunks and user states before, in pieces; the rest in one MULTI/EXEC.

  1  what an interrupted commit left of user states is taken away; those of this checkpoint are written, in pieces:
     nobody reads them before the checkpoint exists
  2  one transaction: version, changes, manifest, the chunks' counts, pins, deletions, the announcement

It reads nothing for others and decides nothing; `weight_store.py` says what a commit is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from features.errors import StoreError, WentBack
from features.redis_client import Pipeline, RedisPlace
from features.redis_extra import seal_state
from service.weight_redis_keys import (
    PART_SECONDS,
    PIECE_BYTES,
    PIECE_KEYS,
    Keys,
    pieces,
    seal,
    seal_version,
)
from service.weight_redis_writer import Writer
from service.weight_version import CheckpointWrite, Version


class Committer:
    """Writes chunks and versions behind the writer's token. One thread."""

    def __init__(self, place: RedisPlace, keys: Keys, writer: Writer) -> None:
        self._place, self._keys, self._writer = place, keys, writer
        self._seen: int | None = None  # the newest version that this process wrote

    def put_chunks(self, chunks: Mapping[str, bytes]) -> None:
        """Those that are not there yet, in pieces; each is named in `chunks` and `unused` with its bytes."""
        keys = self._keys
        for piece in pieces((sha, body) for sha, body in chunks.items() if len(body) <= PIECE_BYTES):

            def queue(pipe: Pipeline, piece: list[tuple[str, bytes]] = piece) -> None:
                known = pipe.hmget(keys.chunks, [sha for sha, _ in piece])
                new = [row for row, found in zip(piece, known, strict=True) if found is None]
                pipe.multi()
                if new:
                    pipe.mset({keys.chunk(sha): body for sha, body in new})
                    pipe.hset(keys.chunks, mapping={sha: f"0:{len(body)}" for sha, body in new})
                    pipe.sadd(keys.unused, *(sha for sha, _ in new))
                    pipe.incrby(keys.bytes, sum(len(body) for _, body in new))

            self._writer.write("write chunks", queue)
        for sha, body in chunks.items():
            if len(body) > PIECE_BYTES:
                self._put_large(sha, body)

    def _put_large(self, sha: str, body: bytes) -> None:
        """One chunk in several keys, which would go by themselves if the last step did not come."""
        keys = self._keys
        with self._place.errors("look for a chunk") as client:
            if client.hexists(keys.chunks, sha):
                return
        names = keys.parts(sha, len(body))
        for k, part in enumerate(names):

            def queue(pipe: Pipeline, k: int = k, part: str = part) -> None:
                pipe.multi()
                pipe.set(part, body[k * PIECE_BYTES : (k + 1) * PIECE_BYTES], ex=PART_SECONDS)

            self._writer.write("write a large chunk", queue)

        def name(pipe: Pipeline) -> None:
            if pipe.exists(*names) != len(names):
                raise StoreError(f"chunk {sha} did not arrive whole in {self._place.where}", value=keys.chunk(sha))
            pipe.multi()
            for part in names:
                pipe.persist(part)
            pipe.hset(keys.chunks, sha, f"0:{len(body)}")
            pipe.sadd(keys.unused, sha)
            pipe.incrby(keys.bytes, len(body))

        self._writer.write("write a large chunk", name)

    def commit(
        self,
        version: Version,
        changes: bytes | None,
        write: CheckpointWrite | None,
        pins: Mapping[int, bool],
        keep: Iterable[int],
    ) -> None:
        """See `WeightStore.commit`. Raises Fenced, WentBack, StoreError."""
        if write is not None:
            self._put_states(write)
        kept = list(keep)
        try:
            self._writer.write(
                f"commit version {version.v}",
                lambda pipe: self._queue(pipe, version, changes, write, pins, kept),
                (self._keys.pins,),
            )
        except StoreError:
            self._seen = None
            raise
        self._seen = version.v

    def _queue(
        self,
        pipe: Pipeline,
        version: Version,
        changes: bytes | None,
        write: CheckpointWrite | None,
        pins: Mapping[int, bool],
        keep: list[int],
    ) -> None:
        keys, v = self._keys, version.v
        self._check_newest(pipe, v)
        named = {} if write is None else self._named(pipe, write)
        last = pipe.zrange(keys.pins, -1, -1, withscores=True)
        place = int(last[0][1]) if last else 0
        pipe.multi()
        body = seal_version(version)
        pipe.mset({keys.version(v): body, keys.latest: body})
        pipe.zadd(keys.versions, {f"{v}:{version.created}": v})
        if changes is not None:
            pipe.set(keys.change(v), seal(changes))
            pipe.zadd(keys.changes, {str(v): v})
        for number, wanted in pins.items():
            place += 1
            set_pin(pipe, keys, number, place if wanted else None)
        if keep:
            pipe.sadd(keys.kept, *keep)
        if write is not None:
            self._queue_checkpoint(pipe, write, named)
        pipe.publish(keys.news, str(v))

    def _check_newest(self, pipe: Pipeline, v: int) -> None:
        newest = newest_of(pipe.zrange(self._keys.versions, -1, -1))
        if self._seen is not None and newest != self._seen:
            raise WentBack(
                f"{self._place.where} is at version {newest}, though {self._seen} was written",
                value=newest,
                hint="Redis lost its last writes: the trainer starts anew from what it holds",
            )
        if newest is not None and v <= newest:
            raise StoreError(
                f"version {v} cannot be written: {self._place.where} is at version {newest}",
                value=v,
                hint="versions only grow; another trainer may have been at work",
            )

    def _named(self, pipe: Pipeline, write: CheckpointWrite) -> dict[str, str]:
        """sha256 → its new entry in `chunks`, one checkpoint more. Raises StoreError where one was not put."""
        shas = sorted(set(write.manifest.chunks.values()))
        found = pipe.hmget(self._keys.chunks, shas) if shas else []
        for sha, entry in zip(shas, found, strict=True):
            if entry is None:
                raise StoreError(f"checkpoint {write.manifest.version} names chunk {sha}, which was not put")
        return {sha: counted(entry, 1) for sha, entry in zip(shas, found, strict=True)}

    def _queue_checkpoint(self, pipe: Pipeline, write: CheckpointWrite, named: Mapping[str, str]) -> None:
        keys, v = self._keys, write.manifest.version
        pipe.set(keys.checkpoint(v), seal(msgspec.json.encode(write.manifest)))
        pipe.zadd(keys.checkpoints, {str(v): v})
        if named:
            pipe.hset(keys.chunks, mapping=dict(named))
            pipe.srem(keys.unused, *named)
        gone = [key for key, body in write.states if body is None]
        if gone:
            pipe.unlink(*(keys.user(key) for key in gone))
        again = {key: body for key, body in write.states if body is not None and key in set(gone)}
        for key, body in again.items():
            pipe.hset(keys.user(key), str(v), seal_state(body))

    def _put_states(self, write: CheckpointWrite) -> None:
        """The user states of a checkpoint to come, as of its number."""
        keys, v = self._keys, write.manifest.version
        self._drop_leftovers()
        rows = ((f"{key:016x}", seal_state(body)) for key, body in write.states if body is not None)
        for piece in pieces(rows):

            def queue(pipe: Pipeline, piece: list[tuple[str, bytes]] = piece) -> None:
                pipe.multi()
                for name, body in piece:
                    pipe.hset(keys.user(int(name, 16)), str(v), body)
                pipe.sadd(keys.state_set(v), *(name for name, _ in piece))
                pipe.zadd(keys.state_sets, {str(v): v})

            self._writer.write("write user states", queue)

    def _drop_leftovers(self) -> None:
        """States of checkpoints that were never committed: those of numbers above the newest checkpoint."""
        keys = self._keys
        with self._place.errors("read checkpoints") as client:
            newest = newest_of(client.zrange(keys.checkpoints, -1, -1)) or 0
            left = [int(v) for v in client.zrangebyscore(keys.state_sets, f"({newest}", "+inf")]
        for v in left:
            while self._writer.write("drop user states", lambda pipe, v=v: self._drop_some(pipe, v)):  # type: ignore[misc]
                pass

    def _drop_some(self, pipe: Pipeline, v: int) -> bool:
        """Some states of a checkpoint that is not there; False once there are none left."""
        keys = self._keys
        names = [bytes(name) for name in pipe.srandmember(keys.state_set(v), PIECE_KEYS) or []]
        pipe.multi()
        for name in names:
            pipe.hdel(keys.user(int(name, 16)), str(v))
        if names:
            pipe.srem(keys.state_set(v), *names)
        else:
            pipe.zrem(keys.state_sets, str(v))
        return bool(names)


def newest_of(found: list[bytes]) -> int | None:
    """The version of the only member of a sorted set's end (`v` or `v:created`); None of an empty one."""
    return int(bytes(found[0]).partition(b":")[0]) if found else None


def counted(entry: bytes, more: int) -> str:
    """The entry of a chunk with so many more (or fewer) checkpoints that name it."""
    count, _, size = bytes(entry).decode().partition(":")
    return f"{int(count) + more}:{size}"


def set_pin(pipe: Pipeline, keys: Keys, v: int, place: int | None) -> None:
    """Queue that v is pinned at a place (the highest is served), or not at all."""
    if place is None:
        pipe.zrem(keys.pins, str(v))
    else:
        pipe.zadd(keys.pins, {str(v): place})
