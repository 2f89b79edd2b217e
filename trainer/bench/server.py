"""A ranker (and a trainer where wanted) of its own in a temporary data directory. It measures nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import service
from features.errors import ArtifactError
from service.artifact import SAMPLE, find_base
from service.settings import Settings
from trainer.bench.client import RawClient

TEST_BASE = Path(service.__file__).parent / "testkit_base"


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB (Linux)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


def cpu_seconds(pid: int) -> float:
    """Processor time that all threads of a process have used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Proportional memory of a process in MB (Linux)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


class Ranker:
    """What a bench measures of a ranker process: `port`, `process`."""

    port: int
    process: subprocess.Popen[bytes]

    def client(self) -> RawClient:
        """A connection of its own."""
        return RawClient(self.port)

    def resident_mb(self) -> float:
        """Resident memory now, MB."""
        return resident_mb(self.process.pid)

    def cpu_seconds(self) -> float:
        """Processor time that all its threads have used."""
        return cpu_seconds(self.process.pid)


class Server(Ranker):
    """One child process that serves `data_dir`; `ready_seconds` from its start to the first 200 of /health/ready."""

    def __init__(self, data_dir: Path, extra: Mapping[str, object] | None = None) -> None:
        self.port = free_port()
        config = data_dir / "bench.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in (extra or {}).items()]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._errors = (data_dir / "server.log").open("ab")
        command = [sys.executable, "-m", "trainer.cli", "serve", "--data-dir", str(data_dir)]
        command += ["--config", str(config), "--port", str(self.port)]
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=self._errors, stderr=self._errors)
        self._wait(data_dir)
        self.ready_seconds = time.perf_counter() - began

    def _wait(self, data_dir: Path) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            if self.process.poll() is not None:
                tail = (data_dir / "server.log").read_text(encoding="utf-8")[-2_000:]
                raise RuntimeError(f"the ranker ended with status {self.process.returncode}:\n{tail}")
            try:
                client = RawClient(self.port, timeout=5.0)
                status, _ = client.call("GET", "/health/ready")
                client.close()
                if status == 200:
                    return
            except (ConnectionError, OSError):
                pass
            time.sleep(0.01)
        raise RuntimeError("the ranker was not ready after 300 s")

    def processes(self) -> list[int]:
        """Its process, and its workers where it has several."""
        pid = self.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())]

    def pss_mb(self) -> float:
        """Proportional memory of all of them, MB: pages that several hold count once."""
        return sum(map(pss_mb, self.processes()))

    def stop(self) -> None:
        """End it as an operator would, and wait."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._errors.close()


@contextmanager
def temporary_data() -> Iterator[Path]:
    """A directory for one bench, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="repl-bench-") as name:
        yield Path(name)


def children_of(settings: Settings) -> dict[str, object]:
    """The settings that a bench's server takes over: the base model (the test kit's where there is no other)."""
    try:
        base = find_base(settings.data_dir, settings.base_dir, SAMPLE)
    except ArtifactError:
        base = TEST_BASE
    return {"base_dir": str(base.resolve())}
