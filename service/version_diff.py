"""Which weights changed most between two versions of one base, by the names of their inputs. It reads versions and the
base's manifest, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import ArtifactError, InvalidRequest
from service.artifact import SAMPLE, Manifest, find_base, read_manifest
from service.settings import Settings
from service.weight_version import HEADS, Version

F64 = npt.NDArray[np.float64]


def compare(a: Version, b: Version, settings: Settings, *, top: int, head: str | None = None) -> dict[str, Any]:
    """Plain values: by head the distance, the blocks' distances, and the `top` inputs whose weight changed most.

    Raises InvalidRequest for versions of different bases, and for a head that is not there.
    """
    if head is not None and head not in HEADS:
        raise InvalidRequest("there is no such head", field="--head", value=head, hint=f"one of {', '.join(HEADS)}")
    distances = b.moved_from(a)
    before, after = a.vectors(), b.vectors()
    names = names_of(b.base, len(after[HEADS[0]]), settings)
    heads = {
        name: {
            "distance": distances[name],
            "blocks": _blocks(names, after[name] - before[name]),
            "inputs": _largest(names, before[name], after[name], top),
        }
        for name in ([head] if head else HEADS)
    }
    return {"from": a.v, "to": b.v, "base": b.base, "trained_ms": b.watermark - a.watermark, "heads": heads}


def names_of(base: str, d: int, settings: Settings) -> Sequence[str]:
    """The names of a base's inputs from its manifest, wherever it lies; their places where it is not here."""
    manifest = _manifest(base, settings)
    if manifest is not None and len(manifest.layout) == d:
        return manifest.layout
    return [f"z.{place}" for place in range(d)]


def _manifest(base: str, settings: Settings) -> Manifest | None:
    places = [settings.data_dir / "base" / base, SAMPLE]
    with suppress(ArtifactError):
        places.append(find_base(settings.data_dir, settings.base_dir, SAMPLE))
    for place in places:
        found = _read(place)
        if found is not None and found[1] == base:
            return found[0]
    return None


def _read(place: Path) -> tuple[Manifest, str] | None:
    try:
        return read_manifest(place)
    except ArtifactError:
        return None


def _blocks(names: Sequence[str], change: F64) -> dict[str, float]:
    """Euclidean distance of each block (what stands before the first dot), largest first."""
    squares: dict[str, float] = {}
    for name, step in zip(names, change.tolist(), strict=True):
        block = name.split(".")[0]
        squares[block] = squares.get(block, 0.0) + step * step
    return {name: float(np.sqrt(total)) for name, total in sorted(squares.items(), key=lambda pair: -pair[1])}


def _largest(names: Sequence[str], before: F64, after: F64, top: int) -> list[dict[str, Any]]:
    change = after - before
    places = [place for place in np.argsort(-np.abs(change), kind="stable")[:top].tolist() if change[place]]
    return [
        {
            "name": names[place],
            "before": float(before[place]),
            "after": float(after[place]),
            "change": float(change[place]),
        }
        for place in places
    ]


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """What `compare` found, for people."""
    yield f"version {answer['from']} → {answer['to']}, {answer['trained_ms'] / 1_000:,.1f} s of events apart"
    for head, found in answer["heads"].items():
        blocks = ", ".join(f"{name} {distance:.3g}" for name, distance in found["blocks"].items() if distance)
        yield f"{head}: moved by {found['distance']:.4g}" + (f" ({blocks})" if blocks else "")
        for one in found["inputs"]:
            yield f"  {one['name']:<24} {one['before']:>10.4f} → {one['after']:>10.4f}  {one['change']:>+10.4f}"
