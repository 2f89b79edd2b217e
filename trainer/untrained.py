"""A base model nobody trained: seeded random weights in small tables, for tests and the test kit.

`python -m trainer.untrained DIRECTORY` writes the one that service/testkit.py serves (service/testkit_base);
run it anew when the schema's defaults, the layout of z or the coding change. Its scores mean nothing, on
purpose.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from features.attached import Attached
from features.coding import CODING_VERSION
from features.layout import ZLayout
from features.schema import Schema
from service.artifact import FORMAT, Manifest, Prior, write_artifact
from trainer.network import Network, NetworkConfig
from trainer.onnx_export import graphs

ROWS = 256
PRIOR_VARIANCE = 0.01


def state_arrays(network: Network) -> dict[str, np.ndarray]:
    """All parameters as f32 numpy arrays, by name."""
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def untrained(directory: Path, schema: Schema | None = None, *, seed: int = 17, rows: int = ROWS) -> str:
    """Write an untrained base model into `directory` and return its sha256. Same arguments, same bytes."""
    schema = schema or Schema.default()
    torch.manual_seed(seed)
    network = Network(NetworkConfig(rows, rows, rows))
    arrays = state_arrays(network)
    layout = ZLayout(network.config.hidden, schema)
    manifest = Manifest(
        format=FORMAT,
        coding=CODING_VERSION,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint,
        hidden=network.config.hidden,
        layout=list(layout.names),
        layout_fingerprint=layout.fingerprint,
        tables={},
        through=0,
        origin={"data": "none: random weights", "command": "python -m trainer.untrained", "seed": seed},
        weak_heads=["click", "purchase"],
        notes=["untrained: for tests only"],
    )
    return write_artifact(
        directory,
        manifest,
        tables={name: arrays[f"{name}_table"] for name in ("user", "item", "word")},
        attached=Attached.empty(),
        prior=random_prior(layout.d, ("click", "purchase"), seed),
        graphs=graphs(arrays),
    )


def random_prior(d: int, heads: tuple[str, ...], seed: int) -> Prior:
    """A prior with small random means and one variance for every weight."""
    rng = np.random.default_rng(seed)
    return {head: (rng.normal(0, 0.05, d), np.eye(d) * PRIOR_VARIANCE) for head in heads}


if __name__ == "__main__":
    print(untrained(Path(sys.argv[1])))
