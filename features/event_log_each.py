"""`read_many` and `tail` of an event log that reads one partition at a time: the parts of each, one after the other."""

from __future__ import annotations

from features.records import Many, Offsets, Record, Stream, split_key

MOST_BYTES = 64 << 20


class EachPartition:
    """For logs whose `read` neither waits nor asks anybody; see `EventLog` for what the methods promise."""

    def read(
        self, stream: Stream, start: int, limit: int = 10_000, partition: int = 0, max_bytes: int = MOST_BYTES
    ) -> list[Record]:
        """See `EventLog.read`."""
        raise NotImplementedError

    def read_many(self, start: Offsets, until: Offsets, limit: int = 10_000) -> Many:
        """See `EventLog.read_many`."""
        found = Many({}, {})
        for name, at in start.items():
            if at < until.get(name, 0):
                self._read_on(found, name, at, until[name], limit)
        return found

    def _read_on(self, found: Many, name: str, at: int, end: int, limit: int) -> None:
        stream, partition = split_key(name)
        records, left = list[Record](), MOST_BYTES
        while at < end and len(records) < limit and left > 0:
            part = self.read(stream, at, limit - len(records), partition, left)
            records += part
            left -= sum(len(one.body) for one in part)
            at = part[-1].offset + 1 if part else end  # what expired or was thinned is passed over
        found.reached[name] = at
        if records:
            found.records[name] = records

    def tail(self, start: Offsets, limit: int, wait: float) -> Many:
        """See `EventLog.tail`; never waits."""
        found = Many({}, {})
        for name, at in start.items():
            stream, partition = split_key(name)
            records = self.read(stream, at, limit, partition)
            found.reached[name] = records[-1].offset + 1 if records else at
            if records:
                found.records[name] = records
        return found._replace(whole=all(len(records) < limit for records in found.records.values()))
