"""This machine's part of the examination: the data directory, its disk, the base model. It loads no graph."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from features.layout import ZLayout
from features.schema import Schema
from service.artifact import SAMPLE, Artifact, find_base, load_artifact
from service.doctor import Finding, Verdict, size
from service.impressions import fitting
from service.settings import Settings

FULL, TIGHT = 512 << 20, 4 << 30
"""Bytes free below which the disk is as good as full, and below which it is doubtful."""


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Is the data directory there, can it be written, is there room?"""
    place = settings.data_dir
    there = place
    while not there.exists() and there != there.parent:
        there = there.parent
    if there != place:
        hint = "it is made at the first start; is --data-dir right?"
        yield Finding("WARN", "disk", f"{place} is not there yet", hint)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-"):
            pass
    except OSError as error:
        what = f"{there} cannot be written: {error.strerror}"
        yield Finding("FAIL", "disk", what, "give this user the right to write")
        return
    free = shutil.disk_usage(there).free
    verdict: Verdict = "FAIL" if free < FULL else "WARN" if free < TIGHT else "PASS"
    hint = "" if free >= TIGHT else "free some, or move data_dir"
    yield Finding(verdict, "disk", f"{size(free)} free for {place}", hint)
    grows = settings.log_max_bytes - _bytes(place / "log.db")
    if settings.log_url is None and 0 < free < grows and free >= FULL:
        what = f"the log may grow by {size(grows)} (log_max_bytes), {size(free)} are free"
        yield Finding("WARN", "disk", what, "lower log_max_bytes, or give it a larger disk")


def _bytes(path: Path) -> int:
    return os.stat(path).st_size if path.exists() else 0


def check_base(settings: Settings) -> Iterator[Finding]:
    """Is there a base model, are its files those of its manifest, does it fit this code and the schema?"""
    place = find_base(settings.data_dir, settings.base_dir, SAMPLE)
    found = load_artifact(place)
    layout = ZLayout(found.manifest.hidden, found.schema)
    found.require_layout(layout.names, layout.fingerprint)
    if settings.schema_file is not None:
        found.require_schema(Schema.load(settings.schema_file))
    through = datetime.fromtimestamp(found.manifest.through / 1e3, UTC).date()
    what = f"{found.sha256[:12]} in {place}: every file has its checksum; trained through {through}"
    if place == SAMPLE:
        yield Finding("WARN", "base", f"{what}; it is the sample's", "train one of your own: repl-ranker train")
    else:
        yield Finding("PASS", "base", what)
    yield from _logged(found, settings)


def _logged(found: Artifact, settings: Settings) -> Iterator[Finding]:
    d = len(found.layout_names)
    room = fitting(settings.log_items, d, ["0123456789ab"] * settings.log_items)
    if room < settings.log_items:
        what = f"log_items is {settings.log_items}; with {d} inputs a served record has room for about {room}"
        yield Finding("WARN", "base", what, "lower log_items: items past that are learned with reconstructed inputs")
