"""Parents of `learn --all-tenants`, each as on a machine of its own: a settings file, a data directory, one Kafka, one
Redis. Events are appended all the while, and every version of every tenant is looked at as it comes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis

from features.event_log import make_kafka_topics, open_log
from features.event_parser import parse_event
from features.realtime import RealtimeConfig
from features.records import event_record
from service.settings import Settings, load_settings
from service.tenant_settings import settings_by_tenant
from service.weight_redis_lease import holder
from service.weight_store import open_weight_store
from tests.conftest import ROOT, fresh_tenant
from trainer.bases import base_by_sha
from trainer.verify import verify_version

BASE = ROOT / "service" / "testkit_base"
STEP = 0.03


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Seen:
    """What one tenant's newest version was, at every look."""

    def __init__(self) -> None:
        self.hashes: dict[int, str] = {}
        self.times: list[tuple[float, int]] = []

    def add(self, v: int, digest: str) -> None:
        assert self.hashes.setdefault(v, digest) == digest, f"version {v} was used twice"
        if not self.times or self.times[-1][1] != v:
            assert not self.times or self.times[-1][1] < v, f"{self.times[-1]} went back to {v}"
            self.times.append((time.monotonic(), v))

    def longest_pause(self, since: float) -> float:
        """Seconds without a new version, at most, from `since` until now."""
        at = [since, *(t for t, _ in self.times if t > since), time.monotonic()]
        return max(b - a for a, b in pairwise(at))


class Trainers:
    """`start` members by name; `kill` them; `until` something holds. `end` checks that nothing failed behind it."""

    def __init__(self, place: Path, kafka_url: str, redis_url: str, tenants: Iterable[str] = "abc") -> None:
        self.place, self.group = place, fresh_tenant()
        names = [f"{self.group}-{one}" for one in tenants]
        self._file = (
            f'tenant = "{self.group}"\nlog_url = "{kafka_url}/{self.group}?timeout_ms=8000"\n'
            f'weights_url = "{redis_url}"\nbase_dir = "{BASE}"\nhold_ms = 0\ncontrol_share = 0\n'
            "checkpoint_every_ms = 1000\npublish_every_ms = 100\n"
        ) + "".join(f"[tenants.{name}]\n" for name in names)
        self.parts = settings_by_tenant(self._settings("test"))
        for one in self.parts.values():
            make_kafka_topics(one, 1, 1)
        self.redis = redis.Redis.from_url(redis_url)
        self.members: dict[str, subprocess.Popen[bytes]] = {}
        self.seen = {name: Seen() for name in names}
        self.sent = dict.fromkeys(names, 0)
        self._failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._keep, args=(work,)) for work in (self._send, self._look)]
        for thread in self._threads:
            thread.start()

    def _settings(self, member: str, more: str = "") -> Settings:
        home = self.place / member
        home.mkdir(exist_ok=True)
        (home / "repl-ranker.toml").write_text(self._file + more)
        return load_settings(None, data_dir=home)[0]

    def start(self, member: str, more: str = "") -> None:
        """more: lines behind the settings file of this member alone."""
        self._settings(member, more)
        known = {key: value for key, value in os.environ.items() if not key.startswith("REPL_")}
        words = [sys.executable, "-m", "trainer.cli", "learn", "--all-tenants", "--data-dir", str(self.place / member)]
        with self.output(member).open("ab") as file:
            self.members[member] = subprocess.Popen(words, cwd=ROOT, env=known, stdout=file, stderr=file)

    def output(self, member: str) -> Path:
        return self.place / f"{member}.log"

    def trainers(self, member: str) -> list[int]:
        return children(self.members[member].pid)

    def kill(self, member: str) -> None:
        """The machine is gone: parent and trainers at once."""
        process = self.members.pop(member)
        for pid in (process.pid, *children(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait(10)

    def holders(self) -> dict[str, int]:
        """tenant → process id of who holds its lease."""
        found = {name: holder(self.redis, f"repl:{{{name}}}") for name in self.parts}
        return {name: int(who.rpartition(":")[2]) for name, who in found.items() if who is not None}

    def shares(self) -> dict[str, set[str]]:
        """member → tenants whose lease one of its trainers holds."""
        held = self.holders()
        return {
            member: {name for name, pid in held.items() if pid in self.trainers(member)} for member in self.members
        }

    def share_is(self, *sizes: int) -> Callable[[], bool]:
        """Whether leases and trainers are spread like this, each trainer at work and none beside them."""

        def so() -> bool:
            shares = self.shares()
            at_work = sorted(len(self.trainers(member)) for member in self.members)
            return sorted(map(len, shares.values())) == sorted(sizes) == at_work

        return so

    def until(self, done: Callable[[], bool], seconds: float, what: str) -> float:
        """Seconds until it was done."""
        began = time.monotonic()
        while not done():
            self.check()
            assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s: {self.shares()}{self.said()}"
            time.sleep(STEP)
        return time.monotonic() - began

    def said(self) -> str:
        return "".join(f"\n{member}:\n{self.output(member).read_text()[-3_000:]}" for member in self.members)

    def until_all_go_on(self, seconds: float, but: str = "") -> float:
        """Until each tenant has two versions more than now; the longest of them, in seconds."""
        now = {name: len(one.times) for name, one in self.seen.items() if not name.endswith(but or "?")}
        return self.until(lambda: all(len(self.seen[name].times) >= n + 2 for name, n in now.items()), seconds, "go on")

    def check(self) -> None:
        assert not self._failures, self._failures[0]
        for member, process in self.members.items():
            assert process.poll() is None, self.output(member).read_text()[-4_000:]

    def _keep(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failures.append(error)

    def _send(self) -> None:
        logs = {name: open_log(one) for name, one in self.parts.items()}
        while not self._stop.wait(2 * STEP):
            for name, log in logs.items():
                n, now = self.sent[name], int(time.time() * 1_000)
                event: dict[str, Any] = {"event": "interaction", "type": "click", "user": f"u{n % 7}"}
                event |= {"item": f"i{n % 5}", "id": f"e{n}", "timestamp": now}
                log.append("event", [event_record(parse_event(event, tenant=name))])
                self.sent[name] += 1
        for log in logs.values():
            log.close()

    def _look(self) -> None:
        stores = {name: open_weight_store(one) for name, one in self.parts.items()}
        while not self._stop.wait(STEP):
            for name, store in stores.items():
                if (latest := store.latest()) is not None:
                    self.seen[name].add(latest.v, latest.hash)
        for store in stores.values():
            store.close()

    def stop_sending(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self.check()

    def proof(self, name: str) -> dict[str, Any]:
        """Versions of a tenant as kept, what its last one counted, and the verdict of a replay."""
        own = self.parts[name]
        with closing(open_log(own)) as log, closing(open_weight_store(own)) as store:
            versions = store.versions(100_000)
            config = RealtimeConfig(max_items=own.max_items)
            found = verify_version(log, store, versions[0].v, lambda sha256: base_by_sha(own, sha256), realtime=config)
            ends = log.end_offsets()
        return {"numbers": [one.v for one in versions], "through": versions[0].offsets, "ends": ends, "verified": found}

    def learned_all(self) -> bool:
        for name, own in self.parts.items():
            with closing(open_weight_store(own)) as store:
                latest = store.latest()
            if latest is None or latest.offsets["event/0"] != self.sent[name]:
                return False
        return True

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        for process in self.members.values():
            process.terminate()
        for process in self.members.values():
            process.wait(60)
        self.redis.close()
