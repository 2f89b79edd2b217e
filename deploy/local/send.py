"""An ordinary Kafka client: sends what stands on its input, line by line, and says which lines were acknowledged.

    python deploy/local/send.py HOST:PORT TOPIC < lines       # a line: {"key": "anna", "value": "{…an event…}"}

For each line it prints {"ok": true} once the broker has it, or {"ok": false, "error": …}; then the caller sends the
line again. It knows nothing of the product: any client of any language does the same.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

SECONDS = 10.0


def producer(servers: str) -> Any:
    """Acknowledged by all in-sync replicas, without repeats by the client's own retries."""
    return KafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True, request_timeout_ms=int(SECONDS * 500),
        delivery_timeout_ms=int(SECONDS * 1_000), max_block_ms=int(SECONDS * 1_000), allow_auto_create_topics=False,
        metrics_enabled=False,
    )  # fmt: skip


def main(servers: str, topic: str) -> None:
    """Until the input ends. After a failure the next line has a client of its own."""
    client: Any = None
    for line in sys.stdin:
        one = json.loads(line)
        answer: dict[str, object] = {"ok": True}
        try:
            client = client or producer(servers)
            client.send(topic, one["value"].encode(), one["key"].encode()).get(2 * SECONDS)
        except (KafkaError, OSError) as error:
            answer = {"ok": False, "error": str(error) or type(error).__name__}
            with suppress(Exception):
                client.close(timeout=0.1)
            client = None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
