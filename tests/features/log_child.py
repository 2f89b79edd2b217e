"""A process that appends to an embedded log until it is killed: run by test_event_log_processes.py, it tests nothing.

It imports once, then forks a worker for each line `DIR RUN COUNT` of its input. A worker writes `ack ID OFFSET` only
after the log has accepted; when it has ended, however it did, `end STATUS` follows.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

from features.event_log_file import EmbeddedEventLog
from features.events import InteractionEvent
from features.records import event_record


def worker(directory: str, run: str, count: int) -> None:
    log = EmbeddedEventLog(Path(directory))

    def append(name: str) -> None:
        chance, done = random.Random(f"{run} {name}"), 0
        while done < count:
            ids = [f"{run}-{name}-{done + i}" for i in range(chance.randint(1, 20))]
            done += len(ids)
            records = [
                event_record(InteractionEvent(id=id, timestamp=done, type="click", item="i")) for id in ids
            ]
            offsets = log.append("event", records)
            acks = "".join(f"ack {id} {offset}\n" for id, offset in zip(ids, offsets, strict=True))
            os.write(1, acks.encode())

    threads = [threading.Thread(target=append, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()


def main() -> None:
    for line in sys.stdin:
        jobs = [job.split() for job in line.split(";")]
        pids = []
        for directory, run, count in jobs:
            pid = os.fork()
            if pid == 0:
                worker(directory, run, int(count))
                os._exit(0)
            pids.append(pid)
        os.write(1, f"pids {' '.join(map(str, pids))}\n".encode())
        for pid in pids:
            os.write(1, f"end {os.waitpid(pid, 0)[1]}\n".encode())


if __name__ == "__main__":
    main()
