"""Events into the log, in batches that let others in between, counted; and files in our own dialect, line by line.
It judges no shop's data: that is `trainer/validate.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from features.errors import InvalidEvent, InvalidInput
from features.event_parser import parse_event
from features.records import NewRecord, event_record

if TYPE_CHECKING:
    from features.event_log import EventLog

BATCH = 2_500
"""Records a transaction: whoever appends beside an import waits no longer than one takes (20 ms)."""
SYNC_EVERY = 7
"""Transactions (some 50 MB of write-ahead log) until all is synced, beside those who append."""
PAUSE = 0.002
"""Seconds between two transactions, in which those who wait get their turn."""

SHOWN_ERRORS = 20

Progress = Callable[[int, int], None]


@dataclass
class Loaded:
    """received = accepted + duplicates + rejected."""

    received: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)  # the first SHOWN_ERRORS

    def add(self, other: Loaded) -> None:
        """Add the counts of another file."""
        self.received += other.received
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.rejected += other.rejected
        self.errors = (self.errors + other.errors)[:SHOWN_ERRORS]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return dict(vars(self))


def load(
    log: EventLog,
    records: Iterable[NewRecord],
    total: int,
    loaded: Loaded,
    progress: Progress = lambda done, of: None,
) -> None:
    """Append records to the stream `event`, a transaction a batch, and count them into `loaded`.

    One batch is written while the next is made; between two, a live ranker may append. Raises LogError.
    """

    def write(batch: list[NewRecord], number: int) -> list[int | None]:
        offsets = log.append("event", batch)
        if number % SYNC_EVERY == 0:
            log.sync()
        time.sleep(PAUSE)
        return offsets

    source, numbers = iter(records), count(1)
    with ThreadPoolExecutor(1) as writer:
        writing: Future[list[int | None]] | None = None
        while batch := list(islice(source, BATCH)):
            _count(writing, loaded)
            writing = writer.submit(write, batch, next(numbers))
            progress(loaded.received, total)
        _count(writing, loaded)
    progress(loaded.received, total)
    log.sync()


def _count(writing: Future[list[int | None]] | None, loaded: Loaded) -> None:
    if writing is not None:
        offsets = writing.result()
        known = offsets.count(None)
        loaded.received += len(offsets)
        loaded.accepted += len(offsets) - known
        loaded.duplicates += known


def file_records(path: Path, tenant: str, loaded: Loaded) -> Iterator[NewRecord]:
    """The records of a file of JSON lines (plain, .gz or .xz); what cannot be read is counted with its line
    number.
    """
    for number, line in lines_of(path):
        try:
            event = parse_event(line, tenant=tenant, now_ms=None)
        except InvalidEvent as error:
            loaded.received += 1
            loaded.rejected += 1
            if len(loaded.errors) < SHOWN_ERRORS:
                loaded.errors.append({"file": str(path), "line": number, **error.as_dict()})
            continue
        yield event_record(event, imported=True)


def file_name(path: Path) -> str:
    """What an import of this file is called in import.json: its name and the first 16 hex digits of its
    sha256.

    Raises InvalidInput if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return f"{path.name} ({hashlib.file_digest(file, 'sha256').hexdigest()[:16]})"
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", field="FILE", value=path) from error


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank. Raises InvalidInput if the file cannot be
    read.
    """
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    try:
        with openers.get(path.suffix, open)(path, "rb") as file:
            yield from _numbered(file)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InvalidInput(f"cannot read {path}: {error}", field="FILE", value=path) from error


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(file, start=1):
        if stripped := line.strip():
            yield number, stripped
