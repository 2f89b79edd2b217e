"""An embedded log whose files are lost goes on where its archive ends. It brings no record back: the archive has them.

An empty file takes the number and the offsets of the one that was lost, so that the next record gets the offset behind
the last one archived. What was accepted after that is gone, like the disk it was on.
"""

from __future__ import annotations

from collections.abc import Mapping

from features.errors import LogError
from features.event_log import EventLog
from features.event_log_archive_manifest import LogId
from features.event_log_file import EmbeddedEventLog
from features.event_log_sqlite import StreamFile
from features.records import Offsets


def restore_log(log: EventLog, archived: LogId, offsets: Offsets) -> list[str]:
    """Let every empty file of the log go on at the archive's offsets; the streams that it did so for.

    A file that is the archived one already is left alone. Raises LogError for a log that is not embedded, or one that
    holds records of its own.
    """
    if not isinstance(log, EmbeddedEventLog):
        raise LogError(
            "only the embedded log is restored from an archive: topics cannot be given offsets", field="then",
            hint="restore the topics themselves, or start a new log with an archive of its own (docs/archive.md)",
        )  # fmt: skip
    topics = log.identity().topics
    found: list[str] = []
    files = {id(file): file for file in log._files.values()}.values()
    lost = [file for file in files if any(topics[one] != archived.topics.get(one) for one in file.streams)]
    for file in lost:
        if full := [name for name, end in file.ends("next").items() if end]:
            raise LogError(
                f"{file.path.name} is not that of the archive, and not empty", field="data_dir", value=full,
                hint="an empty data directory is restored, or an empty file of it; move this one away",
            )  # fmt: skip
    for file in lost:
        _adopt(file, archived.topics, offsets)
        found += [stream for stream in file.streams if f"{stream}/0" in offsets]
    return found


def _adopt(file: StreamFile, topics: Mapping[str, str], offsets: Offsets) -> None:
    numbers = {topics[stream] for stream in file.streams if stream in topics}
    if len(numbers) != 1:
        raise LogError("the archive is not of an embedded log", field="archive", value=sorted(numbers))
    kept = [stream for stream in file.streams if f"{stream}/0" in offsets]
    ends = [(offsets[f"{stream}/0"], offsets[f"{stream}/0"], stream) for stream in kept]
    with file.lock, file.transaction() as w:
        w.executemany("UPDATE log_ends SET first = ?, next = ? WHERE stream = ?", ends)
        w.execute("UPDATE log_meta SET value = ? WHERE name = 'identity'", (int(numbers.pop(), 16),))
