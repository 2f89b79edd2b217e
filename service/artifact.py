"""The base model on disk: a directory of manifest.json, safetensors arrays and ONNX graphs. Immutable, no
pickle.

The consumer owns this contract; trainer/offline.py conforms to it. The artifact's sha256 is that of its
manifest.json, which holds the sha256 of every other file, so that one number names the whole base model.
Reads, checks and writes the directory; runs nothing (service/scorer.py does).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from features.attached import Attached
from features.coding import CODING_VERSION
from features.errors import ArtifactError, SchemaError
from features.schema import Schema

FORMAT = 1
MANIFEST = "manifest.json"
CURRENT = "current"
GRAPHS = ("item", "user", "query", "fine")
SAMPLE = Path(__file__).parent.parent / "deploy" / "sample" / "base"

F64 = npt.NDArray[np.float64]
Prior = dict[str, tuple[F64, F64]]
"""Head → mean f64[d], covariance f64[d, d] of the last layer."""


class Calibration(msgspec.Struct, frozen=True):
    """Of one head on the validation slice: what was folded into the prior, and Σ predicted / Σ observed
    after it.
    """

    slope: float = 1.0
    offset: float = 0.0
    ratio: float | None = None


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What manifest.json holds; readers ignore members they do not know."""

    format: int
    coding: int  # CODING_VERSION it was trained with
    schema: dict[str, Any]
    schema_fingerprint: str
    hidden: int  # leading dimensions of z that this base computes
    layout: list[str]  # every dimension of z in order
    layout_fingerprint: str
    tables: dict[str, int]  # rows of the user, item and word tables
    through: int  # ms: the last event that training saw
    origin: dict[str, Any]  # data, code version, command, seed
    heads: tuple[str, ...] = ("click", "purchase")
    weak_heads: list[str] = []  # heads whose prior rests on no labels
    network_scale: dict[
        str, float
    ] = {}  # head → share of the network's part that the gate kept; in the prior
    calibration: dict[str, Calibration] = {}
    metrics: dict[str, Any] = {}
    notes: list[str] = []  # what a reader of a figure has to know
    files: dict[str, str] = {}  # file name → sha256


@dataclass(frozen=True)
class Artifact:
    """A checked base model; arrays are read-only."""

    dir: Path
    sha256: str
    manifest: Manifest
    schema: Schema
    tables: dict[str, npt.NDArray[np.float16]]  # name → f16[rows, dim]
    attached: Attached
    prior: Prior
    graphs: dict[str, bytes]

    @property
    def layout_names(self) -> list[str]:
        return self.manifest.layout

    def require_layout(self, names: Sequence[str], fingerprint: str) -> None:
        """Raise ArtifactError unless this code's z is the z that the base was trained with."""
        if list(names) != self.manifest.layout or fingerprint != self.manifest.layout_fingerprint:
            first = next(
                (a for a, b in zip(names, self.manifest.layout, strict=False) if a != b), "its length"
            )
            raise ArtifactError(
                "the base model was trained with other inputs of the last layer",
                field=str(self.dir),
                value=f"first difference: {first}",
                hint="train anew with this code: `repl-ranker train`",
            )

    def require_schema(self, schema: Schema) -> None:
        """Raise SchemaError unless `schema` gives fields the meaning they had in training."""
        if schema.fingerprint != self.manifest.schema_fingerprint:
            raise SchemaError(
                f"the schema's fingerprint is not that of base model {self.sha256[:12]}",
                field="schema_file",
                value=schema.fingerprint,
                hint="use the base's schema (unset schema_file) or train anew: `repl-ranker train`",
            )


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"base model file {path.name} {why}",
        field=str(path),
        hint="restore the directory from its source, or train anew: `repl-ranker train`",
    )


def _read(path: Path, expected: str | None = None) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from error
    if expected is not None and digest(data) != expected:
        raise _damaged(path, f"has sha256 {digest(data)[:12]}…, the manifest says {expected[:12]}…")
    return data


def _tensors(path: Path, data: bytes) -> dict[str, npt.NDArray[Any]]:
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise _damaged(path, f"is not a safetensors file: {error}") from error


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """Manifest and sha256 of a base model, its other files unread. Raises ArtifactError."""
    path = directory / MANIFEST
    if not path.exists():
        raise ArtifactError(
            "no base model here: manifest.json is missing",
            field=str(directory),
            hint="train one (`repl-ranker train`) or unset base_dir to serve the sample",
        )
    data = _read(path)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise _damaged(path, f"is not a manifest: {error}") from error
    for name, has, wants in (
        ("format", manifest.format, FORMAT),
        ("coding", manifest.coding, CODING_VERSION),
    ):
        if has != wants:
            hint = "train anew with this code, or serve it with the code it was trained with"
            raise ArtifactError(
                f"base model {name} is {has}, this code's is {wants}", field=str(path), hint=hint
            )
    return manifest, digest(data)


def _pack(covariance: F64) -> F64:
    return covariance[np.triu_indices(len(covariance))]


def _unpack(packed: F64, d: int) -> F64:
    full = np.zeros((d, d))
    full[np.triu_indices(d)] = packed
    return full + np.triu(full, 1).T


def _prior(arrays: Mapping[str, npt.NDArray[Any]], heads: Sequence[str], d: int, path: Path) -> Prior:
    prior = {}
    for head in heads:
        mean, packed = arrays.get(f"{head}.mean"), arrays.get(f"{head}.covariance")
        if mean is None or packed is None or len(mean) != d or len(packed) != d * (d + 1) // 2:
            raise _damaged(path, f"lacks head {head!r} with {d} dimensions")
        prior[head] = (mean.astype(np.float64), _unpack(packed.astype(np.float64), d))
    return prior


def load_artifact(directory: Path) -> Artifact:
    """Read and check a base model. Raises ArtifactError naming the file, what is wrong with it and what to
    do.
    """
    manifest, sha256 = read_manifest(directory)
    names = ["tables.safetensors", "attached.safetensors", "prior.safetensors"]
    names += [f"{graph}.onnx" for graph in GRAPHS]
    missing = [name for name in names if name not in manifest.files]
    if missing:
        raise _damaged(directory / MANIFEST, f"does not list {missing[0]}")
    data = {name: _read(directory / name, manifest.files[name]) for name in names}
    tensors = {name: _tensors(directory / name, data[name]) for name in names[:3]}
    tables = tensors["tables.safetensors"]
    if {name: len(table) for name, table in tables.items()} != manifest.tables:
        raise _damaged(directory / "tables.safetensors", "does not hold the tables of the manifest")
    return Artifact(
        dir=directory,
        sha256=sha256,
        manifest=manifest,
        schema=Schema.from_dict(manifest.schema),
        tables=tables,
        attached=Attached.from_arrays(tensors["attached.safetensors"]),
        prior=_prior(
            tensors["prior.safetensors"],
            manifest.heads,
            len(manifest.layout),
            directory / "prior.safetensors",
        ),
        graphs={graph: data[f"{graph}.onnx"] for graph in GRAPHS},
    )


def write_artifact(
    directory: Path,
    manifest: Manifest,
    *,
    tables: Mapping[str, npt.NDArray[Any]],
    attached: Attached,
    prior: Prior,
    graphs: Mapping[str, bytes],
) -> str:
    """Write a base model and return its sha256; the same content gives the same bytes.

    `directory` appears whole (written beside, then renamed); one that exists is replaced. `manifest.files`,
    `.tables` and `.layout_fingerprint` are filled in here.
    """
    packed: dict[str, npt.NDArray[Any]] = {}
    for head, (mean, covariance) in prior.items():
        packed |= {f"{head}.mean": mean, f"{head}.covariance": _pack(covariance)}
    halves = {name: np.ascontiguousarray(table, dtype=np.float16) for name, table in tables.items()}
    files = {
        "tables.safetensors": save_tensors(halves),
        "attached.safetensors": save_tensors(attached.to_arrays()),
        "prior.safetensors": save_tensors(packed),
        **{f"{name}.onnx": graph for name, graph in graphs.items()},
    }
    manifest = msgspec.structs.replace(
        manifest,
        tables={name: len(halves[name]) for name in sorted(halves)},
        files={name: digest(files[name]) for name in sorted(files)},
    )
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, data in {**files, MANIFEST: encoded}.items():
        (partial / name).write_bytes(data)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return digest(encoded)


def install(directory: Path, bases: Path) -> Path:
    """Move a base model to bases/<sha256> and point bases/current at it; returns the new place."""
    sha256 = digest(_read(directory / MANIFEST))
    place = bases / sha256
    bases.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.rmtree(directory)
    else:
        directory.rename(place)
    written = bases / (CURRENT + ".new")
    written.write_text(sha256 + "\n", encoding="ascii")
    os.replace(written, bases / CURRENT)
    return place


def find_base(data_dir: Path, base_dir: Path | None, sample: Path | None = None) -> Path:
    """Where the base model to serve lies: `base_dir`, else what data_dir/base/current names, else the sample.

    Raises ArtifactError when there is none.
    """
    if base_dir is not None:
        return base_dir
    current = data_dir / "base" / CURRENT
    if current.exists():
        return data_dir / "base" / current.read_text(encoding="ascii").strip()
    if sample is not None and (sample / MANIFEST).exists():
        return sample
    raise ArtifactError(
        "there is no base model",
        field="base_dir",
        value=str(data_dir / "base"),
        hint="train one (`repl-ranker train`) or name one with base_dir",
    )
