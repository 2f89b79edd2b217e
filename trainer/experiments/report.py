"""The report of one experiment: what each arm's users did, how the arms differ, and whether the split can be trusted.

It counts nothing itself (`tally.py`) and knows no formula (`statistics.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ArtifactError, InvalidRequest
from features.event_log import EventLog
from features.schema import Schema
from service.artifact import SAMPLE, find_base, read_manifest
from service.experiment_settings import ExperimentSettings
from service.settings import Settings
from trainer.experiments.statistics import Difference, Ratio, difference, mismatch, moments, ratio
from trainer.experiments.tally import Rules, Tally
from trainer.experiments.units import CLICKS, COLUMNS, IMPRESSIONS, PURCHASES, REVENUE

METRICS: dict[str, tuple[int, int | None]] = {
    "ctr": (CLICKS, IMPRESSIONS),
    "cvr": (PURCHASES, CLICKS),
    "purchase_rate": (PURCHASES, IMPRESSIONS),
    "revenue": (REVENUE, None),
}
"""Numerator and denominator, by column; None: a user of the arm."""

SUSPECT = 0.001
"""A sample-ratio mismatch with a smaller p is reported as one."""
FEW = 100


def schema_of(settings: Settings) -> Schema:
    """The schema of the settings, else that of the base model, else the default."""
    if settings.schema_file is not None:
        return Schema.load(settings.schema_file)
    try:
        found = read_manifest(find_base(settings.data_dir, settings.base_dir, SAMPLE))[0]
    except ArtifactError:
        return Schema.default()
    return Schema.from_dict(found.schema)


def rules_of(settings: Settings) -> Rules:
    """The windows of the label join."""
    return Rules(settings.tenant, settings.click_window_ms, settings.purchase_window_ms)


def experiment_of(settings: Settings, name: str) -> ExperimentSettings:
    """One experiment of the settings. Raises InvalidRequest."""
    found = settings.experiments.get(name)
    if found is None:
        known = ", ".join(settings.experiments) or "none"
        raise InvalidRequest(
            "this experiment is not in the settings", field="experiment", value=name,
            hint=f"known: {known}; --config names another file",
        )  # fmt: skip
    return found


def report(settings: Settings, log: EventLog, name: str) -> dict[str, Any]:
    """All figures of an experiment, as one dict. Raises InvalidRequest, LogError."""
    experiment = experiment_of(settings, name)
    tally = Tally(name, list(experiment.arms), schema_of(settings), rules_of(settings))
    tally.read(log)
    return summary(name, experiment, tally)


def summary(name: str, experiment: ExperimentSettings, tally: Tally) -> dict[str, Any]:
    """The dict of what was counted."""
    names, units = list(experiment.arms), tally.units
    whole = np.where(units.mixed, -1, units.arms)
    users = [int(np.count_nonzero(whole == k)) for k in range(len(names))]
    found = {arm: _ratios(units.sums[whole == k]) for k, arm in enumerate(names)}
    reference = experiment.reference_arm()
    x, p = mismatch(users, [arm.share for arm in experiment.arms.values()])
    answer = {
        "experiment": name,
        "from": tally.first,
        "to": tally.last,
        "reference": reference,
        "users": dict(zip(names, users, strict=True)),
        "sample_ratio": {"chi_square": _plain(x), "p": _plain(p), "suspect": p < SUSPECT},
        "arms": {arm: _arm(units.sums[whole == k], found[arm]) for k, arm in enumerate(names)},
        "differences": {
            arm: {metric: _difference(difference(one, found[reference][metric])) for metric, one in ratios.items()}
            for arm, ratios in found.items()
            if arm != reference
        },
        "left_out": {"users_in_two_arms": int(np.count_nonzero(units.mixed)), **sorted_counts(tally)},
    }
    return {**answer, "warnings": list(_warnings(answer))}


def sorted_counts(tally: Tally) -> dict[str, int]:
    """What was not counted, by reason."""
    return {name: int(n) for name, n in sorted(tally.counts.items()) if n}


def metric_moments(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """By metric, `moments` of every unit."""
    ones = np.ones(len(sums))
    return {
        name: moments(sums[:, top], ones if below is None else sums[:, below]) for name, (top, below) in METRICS.items()
    }


def _ratios(sums: NDArray[np.float64]) -> dict[str, Ratio]:
    return {name: ratio(each.sum(axis=0)) for name, each in metric_moments(sums).items()}


def _arm(sums: NDArray[np.float64], ratios: dict[str, Ratio]) -> dict[str, Any]:
    totals = dict(zip(COLUMNS, (float(part) for part in sums.sum(axis=0)), strict=True))
    shown: dict[str, Any] = {name: int(n) if name != "revenue" else round(n, 2) for name, n in totals.items()}
    shown["users"] = len(sums)
    for name, one in ratios.items():
        low, high = one.interval() if not math.isnan(one.variance) else (math.nan, math.nan)
        shown[name if name != "revenue" else "revenue_per_user"] = {
            "value": _plain(one.value), "low": _plain(low), "high": _plain(high)
        }  # fmt: skip
    return shown


def _difference(found: Difference) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in found._asdict().items()}


def _plain(value: float) -> float | None:
    """For JSON, which has no nan."""
    return None if math.isnan(value) else value


def _warnings(answer: dict[str, Any]) -> Iterator[str]:
    seen = sum(answer["users"].values())
    if answer["sample_ratio"]["suspect"]:
        yield (
            f"sample ratio mismatch (p {answer['sample_ratio']['p']:.2g}): users went missing from an arm; "
            "do not trust the differences before it is known why"
        )
    if seen and min(answer["users"].values()) < FEW:
        yield f"an arm has fewer than {FEW} users: intervals and p values are rough"
    mixed = answer["left_out"]["users_in_two_arms"]
    if mixed:
        yield f"{mixed} users were seen in two arms (salt or shares were changed meanwhile) and are left out"
    if not seen:
        yield "the log holds no answer of this experiment (served records are kept for served_retention_hours)"
    elif not any(arm["impressions"] for arm in answer["arms"].values()):
        yield "no `ranking` event joins these answers: what was shown is not known, so there is no click-through rate"
