"""The weight store in Redis: many rankers, on several machines, follow one trainer; `weight_store_sqlite.py`'s twin.

Its methods are those of `WeightStore` (`weight_store.py`), where they are described. Here stands what is read; what is
written stands in `weight_redis_commit.py` and `weight_redis_thin.py`, who may write in `weight_redis_writer.py`, the
keys in `weight_redis_keys.py`. docs/redis.md says what a Redis that dies may lose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from features.errors import StoreError, UnknownVersion
from features.redis_client import Pipeline, RedisPlace
from service.weight_flags import check_flags
from service.weight_keeping import Keeping
from service.weight_redis_commit import Committer, newest_of, set_pin
from service.weight_redis_keys import (
    Keys,
    batches,
    check_chunk,
    damaged,
    decoded,
    size_of,
    unseal,
    unseal_state,
    unseal_version,
)
from service.weight_redis_news import News
from service.weight_redis_thin import Thinner
from service.weight_redis_writer import Writer
from service.weight_version import FORMAT, Checkpoint, CheckpointWrite, Heartbeat, Version, read_checkpoint

READ_AT_ONCE = 16

_STATES_AS_OF = """
local found = {}
for k, key in ipairs(KEYS) do
  local best, field = -1, false
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local v = tonumber(name)
    if v <= tonumber(ARGV[1]) and v > best then best, field = v, name end
  end
  found[k] = field and redis.call('HGET', key, field)
end
return found
"""


class RedisWeightStore:
    """The weight store of one tenant. Safe from several threads; one process writes (`weight_redis_writer.py`)."""

    def __init__(
        self,
        url: str,
        tenant: str,
        *,
        writer: bool = False,
        max_bytes: int = 1 << 28,
        keeping: Keeping | None = None,
        timeout_ms: int = 2_000,
    ) -> None:
        """writer: take the right to write now, from whoever has it; else the first write takes it, and nothing
        connects yet. keeping, max_bytes: what `thin` leaves, what old checkpoints may take.

        Raises SettingsError; StoreError where a writer finds no Redis that will do.
        """
        self._place = RedisPlace(url, tenant, setting="weights_url", timeout_ms=timeout_ms)
        self._keys = Keys(self._place.prefix)
        self._writer = Writer(self._place, self._keys)
        self._committer = Committer(self._place, self._keys, self._writer)
        self._thinner = Thinner(self._place, self._keys, self._writer, keeping or Keeping(), max_bytes)
        self._known = False
        self._newest: tuple[bytes, Version] | None = None
        self._news = News(self._place, self._keys.news)
        if writer:
            self._writer.take()

    def _read(self, doing: str, ask: Callable[[Pipeline], Any]) -> list[Any]:
        """`RedisPlace.read`; before the first time the format is checked."""
        if not self._known:
            with self._place.errors(doing) as client:
                found = int(client.hget(self._keys.meta, "format") or 0)
            if found > FORMAT:
                raise StoreError(
                    f"the weights in {self._place.where} have format {found}, this program knows {FORMAT}",
                    value=self._keys.meta,
                    hint="update this process",
                )
            self._known = True
        return self._place.read(doing, ask)

    # writing

    def commit(
        self,
        version: Version,
        changes: bytes | None,
        checkpoint: CheckpointWrite | None = None,
        *,
        pins: Mapping[int, bool] | None = None,
        keep: Iterable[int] = (),
    ) -> None:
        with self._place.one_primary():
            self._committer.commit(version, changes, checkpoint, pins or {}, keep)

    def put_chunks(self, chunks: Mapping[str, bytes]) -> None:
        with self._place.one_primary():
            self._committer.put_chunks(chunks)

    def pin(self, v: int) -> None:
        self.get(v)
        self._set_pin(v, True)

    def unpin(self, v: int) -> None:
        self._set_pin(v, False)

    def _set_pin(self, v: int, wanted: bool) -> None:
        keys = self._keys

        def queue(pipe: Pipeline) -> None:
            last = pipe.zrange(keys.pins, -1, -1, withscores=True)
            place = int(last[0][1]) + 1 if last else 1
            pipe.multi()
            set_pin(pipe, keys, v, place if wanted else None)
            pipe.publish(keys.news, "pin")

        self._place.transaction("pin a version", (keys.pins,), queue)

    def keep(self, v: int) -> None:
        self.get(v)
        with self._place.errors("keep a version") as client:
            client.sadd(self._keys.kept, v)

    def set_flags(self, changes: Mapping[str, str | None]) -> None:
        keys = self._keys

        def queue(pipe: Pipeline) -> None:
            check_flags([bytes(name).decode() for name in pipe.hkeys(keys.flags)], changes)
            pipe.multi()
            for name, value in changes.items():
                if value is None:
                    pipe.hdel(keys.flags, name)
                else:
                    pipe.hset(keys.flags, name, value)
            pipe.publish(keys.news, "flags")

        self._place.transaction("set flags", (keys.flags,), queue)

    def thin(self, now: int, keep: Collection[int] = ()) -> dict[str, int]:
        with self._place.one_primary():
            return self._thinner.thin(now, keep)

    def beat(self, heartbeat: Heartbeat, status: Mapping[str, Any] | None = None) -> None:
        rows = {"heartbeat": msgspec.json.encode(heartbeat)}
        if status is not None:
            rows["status"] = msgspec.json.encode(status)

        def queue(pipe: Pipeline) -> None:
            pipe.multi()
            pipe.hset(self._keys.meta, mapping=dict(rows))

        self._writer.write("write the heartbeat", queue)

    # reading

    def latest(self) -> Version | None:
        keys = self._keys

        def ask(pipe: Pipeline) -> None:
            pipe.zrange(keys.versions, -1, -1)
            pipe.get(keys.latest)
            pipe.zrange(keys.pins, 0, -1)

        found, data, pins = self._read("read the latest version", ask)
        newest = newest_of(found)
        if data is None:
            if newest is None:
                return None
            raise damaged(keys.latest, "it is missing")
        known = self._newest
        if known is None or known[0] != data:
            known = (bytes(data), unseal_version(keys.latest, bytes(data)))
            v = known[1].v
            if v != newest:  # one that came meanwhile, or damage
                (listed,) = self._read("list versions", lambda pipe: pipe.zcount(keys.versions, v, v))
                if not listed or v < (newest or 0):
                    raise damaged(keys.latest, f"it holds version {v}, {newest} is the newest")
            self._newest = known
        return _marked(known[1], pins)

    def get(self, v: int) -> Version:
        found = self._some([v])
        if not found:
            raise UnknownVersion(
                f"version {v} is not in the store",
                value=v,
                hint="`repl-ranker versions list` shows those kept",
            )
        return found[0]

    def _some(self, numbers: list[int]) -> list[Version]:
        """These versions as far as they are kept; one that is listed but missing is damage."""
        keys, answer = self._keys, list[Version]()
        for some in batches(numbers):

            def ask(pipe: Pipeline, some: list[int] = some) -> None:
                pipe.mget([keys.version(v) for v in some])
                pipe.zrange(keys.pins, 0, -1)

            bodies, pins = self._read("read versions", ask)
            for v, data in zip(some, bodies, strict=True):
                if data is not None:
                    answer.append(_marked(unseal_version(keys.version(v), bytes(data), v), pins))
                elif self._is_missing(keys.version(v), keys.versions, v):
                    raise damaged(keys.version(v), "it is missing")
        return answer

    def _is_missing(self, key: str, index: str, v: int) -> bool:
        """Is it listed, and not there? (What is written or dropped meanwhile is both or neither at the second look.)"""

        def ask(pipe: Pipeline) -> None:
            pipe.exists(key)
            pipe.zcount(index, v, v)
            pipe.exists(key)

        before, listed, after = self._read("look for a key", ask)
        return bool(listed) and not before and not after

    def versions(self, limit: int = 100, before: int | None = None) -> list[Version]:
        end = "+inf" if before is None else f"({before}"
        return self._some(self._numbers(lambda pipe: pipe.zrevrangebyscore(self._keys.versions, end, "-inf", 0, limit)))

    def versions_after(self, v: int, limit: int = 1_000) -> list[Version]:
        return self._some(
            self._numbers(lambda pipe: pipe.zrangebyscore(self._keys.versions, f"({v}", "+inf", 0, limit))
        )

    def _numbers(self, ask: Callable[[Pipeline], Any]) -> list[int]:
        (found,) = self._read("list versions", ask)
        return [int(bytes(one).partition(b":")[0]) for one in found]

    def pinned(self) -> int | None:
        (found,) = self._read("read pins", lambda pipe: pipe.zrange(self._keys.pins, -1, -1))
        return int(found[0]) if found else None

    def flags(self) -> dict[str, str]:
        (found,) = self._read("read flags", lambda pipe: pipe.hgetall(self._keys.flags))
        return {bytes(n).decode("utf-8", "replace"): bytes(v).decode("utf-8", "replace") for n, v in found.items()}

    def changes_since(self, v: int) -> list[tuple[int, bytes]] | None:
        keys = self._keys

        def ask(pipe: Pipeline) -> None:
            pipe.zrange(keys.versions, -1, -1)
            pipe.zrangebyscore(keys.changes, f"({v}", "+inf")

        last, found = self._read("list changes", ask)
        newest = newest_of(last)
        if newest is None or newest <= v:
            return []
        numbers = [int(one) for one in found if int(one) <= newest]  # what came meanwhile waits for the next call
        if numbers != list(range(v + 1, newest + 1)):
            return None
        answer = []
        for some in batches(numbers, READ_AT_ONCE):
            bodies = self._read(
                "read changes", lambda pipe, some=some: [pipe.get(keys.change(n)) for n in some]  # type: ignore[misc]
            )
            if None in bodies:
                return None  # thinned out meanwhile
            answer += [(n, unseal(keys.change(n), bytes(body))) for n, body in zip(some, bodies, strict=True)]
        return answer

    def latest_checkpoint(self, before: int | None = None) -> Checkpoint | None:
        keys = self._keys
        end = "+inf" if before is None else str(before)
        for _ in range(3):
            (found,) = self._read(
                "find a checkpoint", lambda pipe: pipe.zrevrangebyscore(keys.checkpoints, end, "-inf", 0, 1)
            )
            if not found:
                return None
            v = int(found[0])
            key = keys.checkpoint(v)
            (data,) = self._read("read a checkpoint", lambda pipe, key=key: pipe.get(key))  # type: ignore[misc]
            if data is not None:
                made = read_checkpoint(unseal(key, bytes(data)), f"the Redis key {key}")
                if made.version != v:
                    raise damaged(key, f"it holds checkpoint {made.version}")
                return made
            if self._is_missing(key, keys.checkpoints, v):
                raise damaged(key, "it is missing")
        raise StoreError("checkpoints are dropped faster than they can be read", hint="try again")

    def chunk(self, sha: str) -> bytes:
        return self._chunks([sha])[sha]

    def _chunks(self, shas: list[str]) -> dict[str, bytes]:
        keys, parts = self._keys, dict[str, list[str]]()
        for known in batches(shas):
            (entries,) = self._read("read chunks", lambda pipe, known=known: pipe.hmget(keys.chunks, known))  # type: ignore[misc]
            for sha, entry in zip(known, entries, strict=True):
                if entry is None:
                    raise StoreError(f"chunk {sha} is not in the weight store {self._place.where}", value=sha)
                parts[sha] = keys.parts(sha, size_of(entry))
        bodies: dict[str, bytes] = {}
        for some in batches([key for held in parts.values() for key in held], READ_AT_ONCE):
            found = self._read("read chunks", lambda pipe, some=some: [pipe.get(key) for key in some])  # type: ignore[misc]
            for key, body in zip(some, found, strict=True):
                if body is None:
                    raise damaged(key, "it is missing")
                bodies[key] = bytes(body)
        return {sha: check_chunk(keys.chunk(sha), sha, b"".join(bodies[key] for key in parts[sha])) for sha in shas}

    def load_chunks(self, checkpoint: Checkpoint, prefix: str = "") -> dict[str, bytes]:
        wanted = {name: sha for name, sha in checkpoint.chunks.items() if name.startswith(prefix)}
        found = self._chunks(sorted(set(wanted.values())))
        return {name.removeprefix(prefix): found[sha] for name, sha in wanted.items()}

    def user_states(self, keys: Sequence[int], checkpoint: int) -> list[bytes | None]:
        answer: list[bytes | None] = []
        for names in batches([self._keys.user(key) for key in keys]):
            with self._place.errors("read user states of the trainer") as client:
                found = client.eval(_STATES_AS_OF, len(names), *names, checkpoint)
            pairs = zip(names, found, strict=True)
            answer += [None if body is None else unseal_state(name, bytes(body)) for name, body in pairs]
        return answer

    def heartbeat(self) -> Heartbeat | None:
        (found,) = self._read("read the heartbeat", lambda pipe: pipe.hget(self._keys.meta, "heartbeat"))
        return decoded(self._keys.meta, found, Heartbeat) if found else None

    def status(self) -> dict[str, Any]:
        (found,) = self._read("read the status", lambda pipe: pipe.hget(self._keys.meta, "status"))
        return decoded(self._keys.meta, found, dict[str, Any]) if found else {}

    # announcements

    def follow(self, wake: Callable[[], None]) -> bool:
        self._news.start(wake)
        return True

    def close(self) -> None:
        self._news.close()
        self._place.close()


def _marked(version: Version, pins: Iterable[bytes]) -> Version:
    """The version with `pinned` as the pins say."""
    pinned = version.v in {int(v) for v in pins}
    return msgspec.structs.replace(version, pinned=True) if pinned else version
