"""What a shop of a given size needs: partitions, memory, rankers, bytes a second, disk. Pure arithmetic on measured
figures (`figures.py`); it measures nothing and starts nothing. Each line of a plan says how it was computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from service.figures import Figures
from service.settings import Settings

DAY = 86_400
USED = 0.5
"""How full a processor is planned to be at the busiest time: what is left is for the p99."""
LEAST_PARTITIONS = 6
ROOM = 1.25
"""Redis: fragmentation, the copy-on-write of a snapshot, buffers of clients."""
WINDOW_SECONDS = 60.0
"""Changes of counters lie in Redis for the last two checkpoints, at least for a minute."""


@dataclass(frozen=True)
class Demand:
    """What is asked for. requests: rank requests a second at the busiest time; peak: busiest second / average one."""

    users: int
    items: int
    events_per_day: float
    requests: float
    candidates: int = 300
    interactions: int = 50
    peak: float = 4.0

    @property
    def events(self) -> float:
        """Events a second at the busiest time."""
        return self.peak * self.events_per_day / DAY


class Need(NamedTuple):
    """One line of a plan: value in unit, and how it came about."""

    name: str
    value: float
    unit: str
    why: str


ITEM_KEY_BYTES = 8
"""Of the list of items that states name by number (`:u-items`)."""


def user_state_bytes(figures: Figures, interactions: int) -> float:
    """Redis bytes of one user's state under `:u:`, key and overhead included."""
    return figures["redis_user_bytes"] + figures["redis_interaction_bytes"] * interactions


def trainer_state_bytes(figures: Figures, interactions: int) -> float:
    """Redis bytes of the trainer's state of one user under `:w:user:`."""
    return figures["redis_trainer_user_bytes"] + figures["redis_trainer_interaction_bytes"] * interactions


def plan(demand: Demand, figures: Figures, settings: Settings) -> list[Need]:
    """Every need, in the order in which people ask."""
    rankers = _rankers(demand, figures)
    return [
        _partitions(demand, figures, rankers),
        Need("rankers", rankers, "", _why_rankers(demand, figures)),
        _ranker_memory(demand, figures, settings),
        _ranker_bytes(demand, figures, settings),
        *_redis(demand, figures, settings),
        *_trainer(demand, figures),
        *_disk(demand, figures, settings),
    ]


def _request_seconds(demand: Demand, figures: Figures) -> float:
    return figures["rank_request_seconds"] + figures["rank_candidate_seconds"] * demand.candidates


def _rankers(demand: Demand, figures: Figures) -> int:
    busy = demand.requests * _request_seconds(demand, figures) + demand.events / figures["consumer_events_per_second"]
    return max(2, math.ceil(busy / USED) + 1)


def _why_rankers(demand: Demand, figures: Figures) -> str:
    each, speed = _request_seconds(demand, figures) * 1_000, figures["consumer_events_per_second"]
    return (
        f"{demand.requests:g}/s × {each:.2f} ms at {demand.candidates} candidates, and {demand.events:,.0f} events/s "
        f"at {speed:,.0f}/s, half of a core each; one to spare, never less than two"
    )


def _partitions(demand: Demand, figures: Figures, rankers: int) -> Need:
    each = USED * figures["consumer_events_per_second"]
    value = max(LEAST_PARTITIONS, math.ceil(demand.events / each), rankers)
    why = f"one for each ranker, {each:,.0f} events/s each, at least {LEAST_PARTITIONS}"
    return Need("partitions", value, "", why)


def _ranker_memory(demand: Demand, figures: Figures, settings: Settings) -> Need:
    held = min(demand.users, settings.users_in_memory)
    states = held * (figures["memory_user_bytes"] + figures["memory_interaction_bytes"] * demand.interactions)
    value = figures["ranker_bytes"] + figures["ranker_item_bytes"] * demand.items + states
    why = f"itself, {figures['ranker_item_bytes']:.0f} B an item, {held:,} user states (users_in_memory)"
    return Need("ranker_memory", value, "B", why)


def _versions_per_second(settings: Settings) -> float:
    return 1_000 / settings.publish_every_ms


def _ranker_bytes(demand: Demand, figures: Figures, settings: Settings) -> Need:
    rate = _versions_per_second(settings)
    value = rate * figures["version_bytes"] + demand.events * figures["change_bytes_per_event"]
    why = f"{rate:g} versions/s and the changes of {demand.events:,.0f} events/s, at the busiest time"
    return Need("bytes_per_second_to_each_ranker", value, "B/s", why)


def _redis(demand: Demand, figures: Figures, settings: Settings) -> list[Need]:
    users = demand.users * user_state_bytes(figures, demand.interactions) + ITEM_KEY_BYTES * demand.items
    trained = demand.users * trainer_state_bytes(figures, demand.interactions)
    two = 2 * (figures["checkpoint_bytes"] + figures["checkpoint_item_bytes"] * demand.items)
    chunks = max(two, settings.redis_checkpoint_bytes)
    kept = settings.versions_all_minutes * 60 * _versions_per_second(settings)
    kept += settings.versions_minutely_hours * 60 + settings.versions_hourly_days * 24
    changes = demand.events * figures["change_bytes_per_event"] * WINDOW_SECONDS
    versions = kept * figures["version_bytes"] + changes
    total = ROOM * (users + trained + chunks + versions)
    each = [part / max(1, demand.users) for part in (users, trained)]
    return [
        Need("redis_user_states", users, "B", f"{each[0]:,.0f} B a user (:u:), gone after user_state_ttl_days"),
        Need("redis_trainer_states", trained, "B", f"{each[1]:,.0f} B a user (:w:user:), no time to live"),
        Need("redis_checkpoints", chunks, "B", "old ones go at redis_checkpoint_bytes; two always stay"),
        Need("redis_versions", versions, "B", f"{kept:,.0f} versions (versions_…), a minute of changes"),
        Need("redis_memory", total, "B", "all of these and a quarter more: set maxmemory to it"),
    ]


def _trainer(demand: Demand, figures: Figures) -> list[Need]:
    speed = figures["trainer_events_per_second"]
    why = f"{demand.events:,.0f} events/s at the busiest time; one process learns {speed:,.0f}/s"
    return [Need("trainer_busy", 100 * demand.events / speed, "%", why)]


def _disk(demand: Demand, figures: Figures, settings: Settings) -> list[Need]:
    days, event = settings.event_retention_days, figures["log_event_bytes"]
    hours = max(settings.served_retention_hours, settings.purchase_window_ms / 3_600_000)
    answers, record = demand.requests / demand.peak * hours * 3_600, figures["served_record_bytes"]
    packed, year = figures["archive_event_bytes"], 365 * demand.events_per_day
    return [
        Need("log_events", demand.events_per_day * days * event, "B", f"{days:g} days × {event:.0f} B, a copy"),
        Need("log_served", answers * record, "B", f"{hours:g} h × {record:,.0f} B an answer, a copy"),
        Need("archive_a_year", year * packed, "B", f"events only, {packed:.0f} B each, compressed"),
    ]
