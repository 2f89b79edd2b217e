"""Settings that each are valid and together make no sense. It looks at nothing but the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from service.doctor import Finding
from service.settings import Settings

HOUR, DAY = 3_600_000, 86_400_000
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Rule(NamedTuple):
    """names: of the settings concerned; broken: whether they contradict each other; what follows; what to do."""

    names: tuple[str, ...]
    broken: bool
    what: str
    next: str


def rules(s: Settings) -> list[Rule]:
    """Every rule, applied."""
    shared = s.weights_url is not None or s.log_url is not None
    return [
        Rule(("click_window_ms", "negative_after_ms"), s.click_window_ms < s.negative_after_ms,
             "an item counts as not clicked only after the window in which clicks count",
             "raise click_window_ms above negative_after_ms"),
        Rule(("purchase_window_ms", "purchase_wait_ms"), s.purchase_window_ms < s.purchase_wait_ms,
             "a click counts as not bought only after the window in which purchases count",
             "raise purchase_window_ms above purchase_wait_ms"),
        Rule(("checkpoint_every_ms", "publish_every_ms"), s.checkpoint_every_ms < s.publish_every_ms,
             "every version is a checkpoint", "raise checkpoint_every_ms"),
        Rule(("hold_ms", "click_window_ms"), s.hold_ms >= s.click_window_ms > 0,
             "the hold lets clicks out when their window is over", "lower hold_ms"),
        Rule(("versions_minutely_hours", "versions_all_minutes"),
             s.versions_minutely_hours * 60 < s.versions_all_minutes,
             "versions a minute apart are kept for a shorter time than all versions", "raise versions_minutely_hours"),
        Rule(("versions_hourly_days", "versions_minutely_hours"),
             s.versions_hourly_days * 24 < s.versions_minutely_hours,
             "versions an hour apart are kept for a shorter time than those a minute apart",
             "raise versions_hourly_days"),
        Rule(("event_retention_days",), s.event_retention_days < 3,
             "a trainer that stops over a weekend finds its events expired", "keep them longer than any stop"),
        Rule(("log_items",), s.log_items == 0,
             "no inputs are logged: what is learned are reconstructed ones", "log as many items as a page shows"),
        Rule(("admin_key", "host"), s.admin_key is None and shared and s.host not in LOOPBACK,
             "every ranker makes a key of its own (DATA_DIR/admin.key)", "set admin_key for all of them"),
        Rule(("weights_url", "log_url"), s.weights_url is not None and s.log_url is None,
             "weights are shared, the log is a file: trainer and ranker need the same data directory",
             "set log_url for rankers on several machines"),
        Rule(("user_states_url", "weights_url"), s.user_states_url is not None and s.weights_url is None,
             "user states are shared, weights are a file", "set weights_url too"),
        Rule(("redis_timeout_ms", "user_states_url"), s.user_states_url is not None and s.redis_timeout_ms > 5_000,
             f"a request may wait {s.redis_timeout_ms} ms for a Redis that does not answer", "lower redis_timeout_ms"),
        Rule(("user_state_ttl_days", "user_states_url"), s.user_states_url is not None and s.user_state_ttl_days < 30,
             "inputs look back 30 and 90 days, states go before that", "raise user_state_ttl_days"),
    ]  # fmt: skip


def check(settings: Settings) -> Iterator[Finding]:
    """A WARN for each rule that is broken, else one PASS."""
    broken = [rule for rule in rules(settings) if rule.broken]
    for rule in broken:
        yield Finding("WARN", "settings", f"{', '.join(rule.names)}: {rule.what}", rule.next)
    if not broken:
        yield Finding("PASS", "settings", "nothing contradicts anything")
