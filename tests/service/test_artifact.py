"""The base model on disk: what is damaged or foreign is refused, with file and remedy; same content, same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import service
from features.errors import ArtifactError, SchemaError
from features.layout import ZLayout
from features.schema import Schema
from service.artifact import find_base, install, load_artifact, write_artifact

TESTKIT = Path(service.__file__).parent / "testkit_base"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model that a test may damage."""
    return Path(shutil.copytree(TESTKIT, tmp_path / "base"))


def edit(base: Path, **members: object) -> None:
    path = base / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def test_what_was_written_is_what_is_read(base: Path, tmp_path: Path) -> None:
    artifact = load_artifact(base)
    sha256 = write_artifact(
        tmp_path / "again",
        artifact.manifest,
        tables=artifact.tables,
        attached=artifact.attached,
        prior=artifact.prior,
        graphs=artifact.graphs,
    )
    assert sha256 == artifact.sha256
    for file in base.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    for mean, covariance in artifact.prior.values():
        assert mean.shape == (len(artifact.layout_names),)
        assert np.array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize(
    "name", ["fine.onnx", "tables.safetensors", "attached.safetensors", "prior.safetensors"]
)
def test_a_changed_file_is_named(base: Path, name: str) -> None:
    data = bytearray((base / name).read_bytes())
    data[-1] ^= 1
    (base / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} has sha256") as error:
        load_artifact(base)
    assert error.value.hint


def test_a_missing_file_is_named(base: Path) -> None:
    (base / "item.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"item\.onnx cannot be read: No such file"):
        load_artifact(base)


def test_a_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing.*repl-ranker train"):
        load_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize(("member", "value"), [("format", 2), ("coding", 99)])
def test_another_format_or_coding_is_refused(base: Path, member: str, value: int) -> None:
    edit(base, **{member: value})
    with pytest.raises(ArtifactError, match=f"{member} is {value}, this code's is 1"):
        load_artifact(base)


def test_a_broken_manifest_is_refused(base: Path) -> None:
    (base / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not a manifest"):
        load_artifact(base)


def test_a_prior_of_another_width_is_refused(base: Path) -> None:
    edit(base, layout=load_artifact(base).layout_names[:-1])
    with pytest.raises(ArtifactError, match="lacks head 'click'"):
        load_artifact(base)


def test_another_layout_or_schema_is_refused(base: Path) -> None:
    artifact = load_artifact(base)
    artifact.require_layout(artifact.layout_names, artifact.manifest.layout_fingerprint)
    with pytest.raises(ArtifactError, match=r"first difference: hidden\.1"):
        artifact.require_layout(artifact.layout_names[1:], artifact.manifest.layout_fingerprint)
    other = Schema.from_dict(Schema.default().to_dict() | {"languages": ["de"]})
    artifact.require_schema(Schema.default())
    with pytest.raises(SchemaError, match="not that of base model"):
        artifact.require_schema(other)


def test_the_test_kits_base_fits_the_code() -> None:
    """If not: `python -m trainer.untrained service/testkit_base`."""
    artifact = load_artifact(TESTKIT)
    layout = ZLayout(artifact.manifest.hidden, artifact.schema)
    artifact.require_layout(layout.names, layout.fingerprint)
    artifact.require_schema(Schema.default())


def test_unknown_members_are_ignored(base: Path) -> None:
    edit(base, later="something")
    assert load_artifact(base).manifest.hidden == 64


def test_install_and_find(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    sample = Path(shutil.copytree(base, tmp_path / "sample"))
    with pytest.raises(ArtifactError, match="there is no base model"):
        find_base(data, None)
    assert find_base(data, None, sample) == sample
    place = install(base, data / "base")
    assert place.name == load_artifact(place).sha256
    assert find_base(data, None, sample) == place
    assert find_base(data, sample) == sample
    assert install(Path(shutil.copytree(place, tmp_path / "twice")), data / "base") == place


def test_the_manifest_is_json_that_anybody_reads() -> None:
    manifest = load_artifact(TESTKIT).manifest
    assert msgspec.json.decode((TESTKIT / "manifest.json").read_bytes())["layout"] == manifest.layout
