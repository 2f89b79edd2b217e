"""Another base than the test kit's, of the same schema: for tests of a rollout."""

from __future__ import annotations

from pathlib import Path

import msgspec

from features.layout import ZLayout
from features.schema import Schema
from service.artifact import Artifact, load_artifact, write_artifact
from service.testkit import BASE


def second_base(place: Path, weigh: float = 0.1) -> Artifact:
    """The test kit's base with its tables turned round: other hidden vectors, which weigh less in its prior."""
    first = load_artifact(BASE)
    layout = ZLayout(first.manifest.hidden, Schema.default())
    prior = {head: (mean.copy(), covariance) for head, (mean, covariance) in first.prior.items()}
    for mean, _ in prior.values():
        mean[: layout.hidden] *= weigh
    manifest = msgspec.structs.replace(first.manifest, origin={"data": "tests: another base"})
    tables = {name: table[::-1].copy() for name, table in first.tables.items()}
    write_artifact(
        place, manifest, tables=tables, attached=first.attached, prior=prior, graphs=first.graphs
    )
    return load_artifact(place)
