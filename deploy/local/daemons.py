"""Processes that outlive who started them, each known by a file with its process id and its start time.

A process id alone is not enough: systems give them out again. Only a process whose start time is the one in the file is
ours, and only such a one is ever signalled. It knows nothing of services.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def started_at(pid: int) -> str | None:
    """When this process started, in words that name no other process of this id; None: there is none, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _started_by_ps(pid)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None if stat[0] in "ZX" else f"{boot}/{stat[19]}"  # field 22: ticks since the system started


def _started_by_ps(pid: int) -> str | None:
    """The same where there is no /proc (macOS)."""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@dataclass(frozen=True)
class Daemon:
    """One named process: `file` is where it is written down, `output` where it writes."""

    name: str
    file: Path
    output: Path

    def pid(self) -> int | None:
        """Its process id while it runs, None otherwise (also where the id belongs to somebody else by now)."""
        known = self._known()
        ours = known is not None and known["started"] is not None and started_at(known["pid"]) == known["started"]
        return known["pid"] if known and ours else None

    def digest(self) -> str | None:
        """What it was started with, as `start` was told."""
        known = self._known()
        return known["digest"] if known else None

    def _known(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], home: Path, digest: str, grace: float
    ) -> None:
        """Start it in a session of its own; the caller has looked that it does not run. Raises OSError.

        digest: of what it is started with; grace: seconds that `stop` gives it to end by itself.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=home, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        process.returncode = 0  # it outlives us: nobody here waits for it
        known = {"pid": process.pid, "started": started_at(process.pid), "digest": digest, "grace": grace}
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(known), encoding="utf-8")
        fresh.replace(self.file)

    def stop(self) -> str | None:
        """SIGTERM, after its grace SIGKILL to its whole session; how it went, None where it did not run."""
        pid, known = self.pid(), self._known()
        if pid is None or known is None:
            self.file.unlink(missing_ok=True)
            return None
        os.kill(pid, signal.SIGCONT)  # a stopped one would not hear
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + known["grace"]
        while self.pid() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        killed = self.pid() is not None
        # the session is named by its first process, and this name is not given out while anybody is in it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        while self.pid() is not None:
            time.sleep(0.05)
        self.file.unlink(missing_ok=True)
        return "killed, it did not end by itself" if killed else "ended"

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            text = self.output.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:] or ["(nothing)"])


def all_of(run: Path, logs: Path) -> list[Daemon]:
    """Every process that is written down in `run`, the one that was started last first."""
    files = sorted(run.glob("*.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return [Daemon(file.stem, file, logs / f"{file.stem}.log") for file in files]
