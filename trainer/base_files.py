"""What a training run leaves behind: the base model's manifest and files. It trains nothing, and installs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from features.attached import Attached
from features.coding import CODING_VERSION
from features.layout import ZLayout
from features.schema import Schema
from service.artifact import FORMAT, Manifest, write_artifact
from trainer.fitting import FitReport
from trainer.network import Network
from trainer.onnx_export import graphs
from trainer.prior_heads import HeadPrior
from trainer.untrained import state_arrays

NO_QUERIES = "no queries in the log: searches are simulated by words of titles"
NO_IMPRESSIONS = "no impressions in the log: negatives are sampled, uniform and by popularity"
NO_LEVEL = "without impressions the level of P(click) is a convention (the share of positives in the sample)"
NO_LABELS = "no label tells a purchase from another behaviour: P(purchase | click) is a weak prior"


@dataclass(frozen=True)
class BaseParts:
    """What the files of a base model are made of; priors: head → its last layer."""

    network: Network
    attached: Attached
    priors: dict[str, HeadPrior]

    def save(self, directory: Path, manifest: Manifest) -> None:
        """Write an artifact to a directory."""
        arrays = state_arrays(self.network)
        write_artifact(
            directory,
            manifest,
            tables={name: arrays[f"{name}_table"] for name in ("user", "item", "word")},
            attached=self.attached,
            prior={head: (prior.mean, prior.covariance) for head, prior in self.priors.items()},
            graphs=graphs(arrays),
        )


def bare_manifest(schema: Schema, layout: ZLayout, through: int, origin: dict[str, Any]) -> Manifest:
    """A manifest without findings; through: time (ms) of the last event read; origin: where the data came from."""
    return Manifest(
        format=FORMAT,
        coding=CODING_VERSION,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint,
        hidden=layout.hidden,
        layout=list(layout.names),
        layout_fingerprint=layout.fingerprint,
        tables={},
        through=through,
        origin=origin,
    )


def with_findings(
    bare: Manifest, counts: Mapping[str, int], priors: dict[str, HeadPrior], report: FitReport
) -> Manifest:
    """The manifest with what training found: weak heads, scales, calibration, metrics and notes on the log."""
    notes = [
        note
        for note, holds in (
            (NO_IMPRESSIONS, not counts["rankings"]),
            (NO_LEVEL, not counts["rankings"]),
            (NO_QUERIES, not counts["queries"]),
            (NO_LABELS, priors["purchase"].weak),
        )
        if holds
    ]
    later = report.later[report.best] if report.later else {}
    return msgspec.structs.replace(
        bare,
        weak_heads=[head for head, prior in priors.items() if prior.weak],
        network_scale={head: prior.scale for head, prior in priors.items()},
        calibration={head: prior.calibration for head, prior in priors.items()},
        metrics={
            "network": later,
            **{head: prior.metrics for head, prior in priors.items() if not prior.weak},
        },
        notes=notes,
    )
