"""`python -m trainer.bench.stack_load RATE ITEMS`: clicks of 400 users on the second half of the items, RATE a second.

They are appended to the log of the environment's settings until its input ends; then it prints how many. A bench
starts it.
"""

from __future__ import annotations

import random
import select
import sys
import time
from contextlib import closing

from features.event_log import open_log
from features.events import InteractionEvent
from features.records import event_record
from service.settings import load_settings

EVERY = 0.05


def main() -> None:
    """See the module."""
    rate, items = int(sys.argv[1]), int(sys.argv[2])
    settings, _ = load_settings()
    rng, sent, due = random.Random(5), 0, time.monotonic()
    with closing(open_log(settings)) as log:
        while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            now, count = time.time_ns() // 1_000_000, max(1, int(rate * EVERY))
            log.append("event", [
                event_record(InteractionEvent(
                    id=f"load-{sent + k}", timestamp=now, type="click", tenant=settings.tenant,
                    item=f"i{rng.randrange(items // 2, items)}", user=f"l{rng.randrange(400)}"))
                for k in range(count)
            ])  # fmt: skip
            sent, due = sent + count, due + EVERY
    print(sent)


if __name__ == "__main__":
    main()
