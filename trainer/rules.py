"""The settings that move the learner. A change of theirs is a record of the log, so that a replay knows of it."""

from __future__ import annotations

import msgspec

from service.settings import Settings
from trainer.join import JoinRules

FORM = 2
"""How labels are made where code, not a setting, says so. 1: those that wait for a served record wait all its time,
came it or not. 2: they follow when it comes. A log that was begun in an earlier form is followed in it, up to the
control record that the first start of this code appends."""


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
    form: int = 1

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Those of the effective settings, in the newest form."""
        given = {name: getattr(settings, name) for name in cls.__struct_fields__ if name != "form"}
        return cls(**given, form=FORM)

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
            at_once=self.form >= 2,
        )
