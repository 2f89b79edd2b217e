"""Which base model the online trainer learns around: the one that is served. It trains none."""

from __future__ import annotations

from features.errors import ArtifactError
from service.artifact import Artifact, find_base, load_artifact
from service.engine import SAMPLE
from service.settings import Settings


def current_base(settings: Settings) -> Artifact:
    """The base that the ranker serves. Raises ArtifactError, SchemaError."""
    return load_artifact(find_base(settings.data_dir, settings.base_dir, SAMPLE))


def base_by_sha(settings: Settings, sha256: str) -> Artifact | None:
    """A base by its sha256, from the data directory or the sample; None where it is not here any more."""
    for place in (settings.data_dir / "base" / sha256, SAMPLE, settings.base_dir):
        try:
            found = load_artifact(place) if place is not None else None
        except ArtifactError:
            continue
        if found is not None and found.sha256 == sha256:
            return found
    return None
