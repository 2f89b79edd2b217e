"""One trainer a data directory: a file lock, given back by the system when the process ends. It fences no reader."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from features.errors import Fenced


class Fence:
    """Holds `trainer.lock` until `close`, or until the process is gone, however it ends."""

    def __init__(self, data_dir: Path) -> None:
        """Raises Fenced when another process holds the lock."""
        data_dir.mkdir(parents=True, exist_ok=True)
        self._file = os.open(data_dir / "trainer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise Fenced(
                "another trainer is at work in this data directory",
                field="data_dir",
                value=data_dir,
                hint="stop it, or name another directory with --data-dir",
            ) from error

    def close(self) -> None:
        """Let another trainer in."""
        os.close(self._file)
