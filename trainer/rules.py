"""The settings that move the learner. A change of theirs is a record of the log, so that a replay knows of it."""

from __future__ import annotations

import msgspec

from service.settings import Settings
from trainer.join import JoinRules


class Rules(msgspec.Struct, frozen=True):
    """See `service/settings.py`; times in ms."""

    hold_ms: int
    negative_after_ms: int
    click_window_ms: int
    purchase_wait_ms: int
    purchase_window_ms: int
    join_capacity: int
    process_noise: float
    learning_rate: float
    history: int
    dedup_hours: float
    dedup_ids: int
    infer_shown: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Those of the effective settings."""
        return cls(*(getattr(settings, name) for name in cls.__struct_fields__))

    def join(self) -> JoinRules:
        """What the label join needs."""
        return JoinRules(
            negative_after=self.negative_after_ms,
            click_window=self.click_window_ms,
            purchase_wait=self.purchase_wait_ms,
            purchase_window=self.purchase_window_ms,
            hold=self.hold_ms,
            capacity=self.join_capacity,
            clicks=max(100, self.join_capacity // 4),
        )
