"""What `[experiments.NAME]` of the settings may hold, checked with words that help. It assigns nobody.

Imported with the settings, so nothing heavy is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

Does = Literal["live", "prior", "version", "noop", "shuffle"]
MAX_EXPERIMENTS, MAX_ARMS = 20, 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ROUNDING = 1e-9


def _wrong(message: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("experiments", "{message}: {hint}", {"message": message, "hint": hint})


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise _wrong(f"{name!r} is no name of {what}", "1 to 64 of A–Z a–z 0–9 _ . -, the first a letter or digit")


class ArmSettings(BaseModel):
    """One arm: its share of all traffic that the experiment sees, and what it does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(gt=0, le=1)
    does: Does
    version: int | None = Field(None, ge=1)
    top: int | None = Field(None, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> ArmSettings:
        if (self.does == "version") != (self.version is not None):
            raise _wrong(
                f'`version` belongs to `does = "version"`, here it is {self.version} with {self.does!r}',
                "`repl-ranker versions list` shows those kept",
            )
        if self.top is not None and self.does != "shuffle":
            raise _wrong(f'`top` belongs to `does = "shuffle"`, here it is {self.does!r}', "leave it out")
        return self


class ExperimentSettings(BaseModel):
    """One experiment. `salt` None: its name; `surface` None: both; `reference` None: the first arm that is live, else
    the first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: dict[str, ArmSettings]
    salt: str | None = Field(None, min_length=1, max_length=128)
    surface: Literal[0, 1] | None = None
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    reference: str | None = None

    @property
    def total(self) -> float:
        """The share of traffic that is in the experiment."""
        return sum(arm.share for arm in self.arms.values())

    def reference_arm(self) -> str:
        """The arm that the others are compared with."""
        live = [name for name, arm in self.arms.items() if arm.does == "live"]
        return self.reference or (live or list(self.arms))[0]

    def period(self) -> tuple[int, int]:
        """[start, end) in ms since 1970."""
        first = 0 if self.start is None else int(self.start.timestamp() * 1_000)
        return first, 1 << 62 if self.end is None else int(self.end.timestamp() * 1_000)

    def covers(self, other: ExperimentSettings) -> bool:
        """Does it take every request that the other one could have?"""
        (start, end), (first, last) = self.period(), other.period()
        same = self.surface is None or self.surface == other.surface
        return same and start <= first and end >= last and self.total > 1 - _ROUNDING

    @field_validator("arms")
    @classmethod
    def _arms(cls, arms: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        for name in arms:
            _check_name(name, "an arm")
        if not 2 <= len(arms) <= MAX_ARMS:
            raise _wrong(f"an experiment has 2 to {MAX_ARMS} arms, this one {len(arms)}", "add or remove some")
        total = sum(arm.share for arm in arms.values())
        if total > 1 + _ROUNDING:
            raise _wrong(f"the shares of the arms sum to {total:g}", "1 at most; what is left takes no part")
        return arms

    @model_validator(mode="after")
    def _whole(self) -> ExperimentSettings:
        start, end = self.period()
        if end <= start:
            raise _wrong(f"it ends ({self.end}) before it starts ({self.start})", "swap the two times")
        if self.reference is not None and self.reference not in self.arms:
            raise _wrong(f"reference {self.reference!r} is none of its arms", f"one of {', '.join(self.arms)}")
        return self


def check_experiments(found: Mapping[str, ExperimentSettings]) -> Mapping[str, ExperimentSettings]:
    """All of them: names, number, and that none takes everything from a later one. Raises pydantic's error."""
    if len(found) > MAX_EXPERIMENTS:
        raise _wrong(f"{len(found)} experiments", f"{MAX_EXPERIMENTS} at most")
    names = list(found)
    for place, name in enumerate(names):
        _check_name(name, "an experiment")
        for before in names[:place]:
            if found[before].covers(found[name]):
                raise _wrong(
                    f"nobody is left for {name!r}: {before!r} stands before it and takes all traffic",
                    f"give the arms of {before!r} smaller shares, or the two different surfaces or times",
                )
    return found
