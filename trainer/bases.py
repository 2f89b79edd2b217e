"""Base models for the online trainer: the one that the settings name, others by their sha256. It trains none."""

from __future__ import annotations

from collections.abc import Collection

from service.artifact import SAMPLE, Artifact, find_base, load_artifact
from service.base_fetch import fetch, tidy
from service.engine import find_installed
from service.settings import Settings


def current_base(settings: Settings) -> Artifact:
    """The base that the settings name. Raises ArtifactError, SchemaError."""
    return load_artifact(find_base(settings.data_dir, settings.base_dir, SAMPLE))


def fetch_base(settings: Settings, sha256: str, url: str, in_use: Collection[str]) -> Artifact:
    """A base by its sha256: the one that is here, else fetched from `url`. Old ones go, none of those `in_use`.

    Raises ArtifactError, SchemaError."""
    bases = settings.data_dir / "base"
    found = base_by_sha(settings, sha256) or fetch(url, bases, sha256)
    tidy(bases, {sha256, *in_use})
    return found


def base_by_sha(settings: Settings, sha256: str) -> Artifact | None:
    """A base by its sha256, from the data directory or the sample; None where it is not here any more."""
    return find_installed(settings, sha256)
