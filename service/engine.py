"""Everything a ranker computes with, loaded from a data directory: base model, catalogue, states, vectors.

It only loads and holds; `service/ranker.py` ranks, the threads of `service/core.py` keep it up to date. `lock` guards
catalogue, user states, item vectors, counters and the served snapshot together: hold it shortly.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.assembler import Assembler, ZLayout
from features.catalogue import Catalogue
from features.catalogue_followed import FollowedCatalogue
from features.errors import ArtifactError, StoreError
from features.feature_store import FeatureStore, open_feature_store
from features.realtime import RealtimeConfig, RealtimeState
from features.records import Offsets
from features.schema import Schema
from features.shared_pages import OwnPages, Pages, SharedPages
from service.artifact import MANIFEST, SAMPLE, Artifact, find_base, load_artifact, read_manifest
from service.catalogue_store import CatalogueStore
from service.item_vectors import ItemVectors
from service.last_layer import Bounds, Terms, term_bounds
from service.scorer import ItemInput, Scorer
from service.settings import Settings
from service.shared_users import SharedUserStates
from service.snapshot import stack
from service.states_beside import BesideUserStates
from service.user_vectors import SideVectors
from service.worker import Worker

log = logging.getLogger(__name__)

UNKNOWN_ID = ""


def once() -> Iterable[None]:
    """A loop that runs once."""
    return (None,)


@dataclass
class Engine:
    """See the module's docstring. `terms` and `bounds` are those of the last layer."""

    lock: threading.Lock
    artifact: Artifact
    scorer: Scorer
    schema: Schema
    catalogue: Catalogue
    catalogue_store: CatalogueStore | None
    users: SharedUserStates
    realtime: RealtimeState
    layout: ZLayout
    assembler: Assembler
    vectors: ItemVectors
    sides: SideVectors
    terms: Terms
    bounds: Bounds
    prior: npt.NDArray[np.float64]
    offsets: tuple[Offsets | None, Offsets | None]
    waiting: npt.NDArray[np.int64]
    reading: Callable[[], Iterable[None]] = once
    """Around what is read of counters with the weights: a loop, since another process may change them meanwhile."""

    def request_numbers(self, fields: Mapping[str, Any]) -> dict[str, float]:
        """The request-scope numeric fields of the schema among `fields`, as numbers; others are left out."""
        named = [f.name for f in self.schema.numeric if f.scope == "request" and f.name in fields]
        numbers = {name: as_number(fields[name]) for name in named}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def candidate_numbers(
        self, ids: Sequence[str], fields: Mapping[str, Mapping[str, Any]]
    ) -> npt.NDArray[np.float32] | None:
        """Candidate-scope numeric fields f32 (n, k) in the schema's order, NaN where missing; None without any."""
        names = [f.name for f in self.schema.numeric if f.scope == "candidate"]
        if not names or not fields:
            return None
        nothing: Mapping[str, Any] = {}
        sent = [fields.get(item, nothing) for item in ids]
        columns = [[as_number(given.get(name)) for given in sent] for name in names]
        return np.ascontiguousarray(np.array(columns, np.float32).T)

    def use_realtime(self, fresh: RealtimeState) -> None:
        """Put a newly loaded real-time state in place of the old one; the caller holds `lock`."""
        self.realtime = fresh
        self.assembler = Assembler(self.layout, self.schema, self.catalogue, fresh)


def as_number(value: Any) -> float:
    """A field value as a number: booleans are 0 and 1, decimal strings are read; NaN for anything else."""
    try:
        return float(value) if isinstance(value, bool | int | float | str) else math.nan
    except (ValueError, OverflowError):  # no number, or an integer beyond every float
        return math.nan


def unknown_vectors(scorer: Scorer) -> tuple[npt.NDArray[np.float32], ...]:
    """Vectors of an item of which nothing is known: tower (64,), coarse (32,), bias ()."""
    made = scorer.encode_items([ItemInput(UNKNOWN_ID)])
    return made.tower[0], made.coarse[0], made.bias[0]


def _read_catalogue(catalogue: Catalogue, store: CatalogueStore) -> tuple[Offsets, npt.NDArray[np.int64]]:
    """Fill the catalogue from its store; (offsets it was read through, rows waiting). Damaged: start anew."""
    chunks, offsets, waiting = store.load()
    try:
        catalogue.restore(chunks)
    except (ValueError, KeyError, IndexError) as error:
        log.error(
            "the stored catalogue is damaged and is read anew from the log", extra={"reason": str(error)}
        )
        catalogue.restore({})
        return {}, np.zeros(0, np.int64)
    return offsets, np.arange(len(catalogue)) if waiting is None else waiting


def _read_through(features: FeatureStore) -> Offsets | None:
    """How far user states were read; None where their store does not answer: the consumer asks it again."""
    try:
        return features.offsets()
    except StoreError as error:
        log.error("user states cannot be read yet", extra={"reason": error.message})
        return None


def has_base(settings: Settings) -> bool:
    """Whether there is any base model to serve, damaged or not."""
    try:
        find_base(settings.data_dir, settings.base_dir, SAMPLE)
    except ArtifactError:
        return False
    return True


def find_installed(settings: Settings, sha256: str) -> Artifact | None:
    """A base by its sha256, from the data directory, the sample or `base_dir`; None where it is not here (any more)."""
    for place in (settings.data_dir / "base" / sha256, SAMPLE, settings.base_dir):
        try:
            if place is not None and (place / MANIFEST).exists() and read_manifest(place)[1] == sha256:
                return load_artifact(place)
        except ArtifactError:
            continue
    return None


def load_engine(
    settings: Settings,
    clock: Callable[[], int],
    *,
    realtime: RealtimeConfig | None = None,
    worker: Worker | None = None,
) -> Engine:
    """Load what `settings.data_dir` holds. Raises ArtifactError, SchemaError, StoreError with what to do.

    worker: the one of several that this process is; all but the first take the tables that the first has announced.
    """
    config = realtime or RealtimeConfig(max_items=settings.max_items)
    if worker is not None and not worker.leads:
        return _load_following(settings, config)
    artifact, schema, layout = _load_base(settings, find_base(settings.data_dir, settings.base_dir, SAMPLE))
    make: Callable[[], Pages] = OwnPages if worker is None else SharedPages
    catalogue = Catalogue(schema, settings.max_items, make)
    store = CatalogueStore(settings.data_dir / "catalogue.db", artifact.sha256)
    items_from, waiting = _read_catalogue(catalogue, store)
    scorer = Scorer(artifact)
    vectors = ItemVectors(settings.data_dir / "vectors" / artifact.sha256, unknown_vectors(scorer))
    vectors.reserve(len(catalogue))
    missing = vectors.missing(catalogue.key)
    users, users_from = _users(settings, SharedUserStates)
    return _engine(
        (artifact, schema, layout, scorer),
        (catalogue, store),
        users,
        RealtimeState(config, make),
        vectors,
        (users_from, items_from),
        np.union1d(waiting, missing).astype(np.int64),
    )


def _load_following(settings: Settings, config: RealtimeConfig) -> Engine:
    """From the tables of the worker that writes, once they are there."""
    from service.following import FollowedUserStates, counters_at, wait_for_tables

    found = wait_for_tables(settings.data_dir)
    artifact, schema, layout = _load_base(settings, Path(found.base))
    scorer = Scorer(artifact)
    folder = settings.data_dir / "vectors" / artifact.sha256
    vectors = ItemVectors(folder, unknown_vectors(scorer), follows=True)
    catalogue = FollowedCatalogue(schema, settings.max_items, SharedPages(found.catalogue))
    catalogue.follow(vectors.capacity)
    users, users_from = _users(settings, FollowedUserStates)
    return _engine(
        (artifact, schema, layout, scorer),
        (catalogue, None),
        users,
        counters_at(found.counters, config),
        vectors,
        (users_from, None),
        np.zeros(0, np.int64),
    )


def _users(settings: Settings, kind: type[SharedUserStates]) -> tuple[SharedUserStates, Offsets | None]:
    """User states, of this kind where they are kept here, and how far they were read. Raises StoreError."""
    features = open_feature_store(settings)
    if settings.user_states == "beside":
        return BesideUserStates(features, settings.users_in_memory, settings.history), {}
    return kind(features, settings.users_in_memory, settings.history), _read_through(features)


def _load_base(settings: Settings, place: Path) -> tuple[Artifact, Schema, ZLayout]:
    artifact = load_artifact(place)
    schema = artifact.schema
    if settings.schema_file is not None:
        schema = Schema.load(settings.schema_file)
        artifact.require_schema(schema)
    layout = ZLayout(artifact.manifest.hidden, schema)
    artifact.require_layout(layout.names, layout.fingerprint)
    return artifact, schema, layout


def _engine(
    base: tuple[Artifact, Schema, ZLayout, Scorer],
    catalogue: tuple[Catalogue, CatalogueStore | None],
    users: SharedUserStates,
    state: RealtimeState,
    vectors: ItemVectors,
    offsets: tuple[Offsets | None, Offsets | None],
    waiting: npt.NDArray[np.int64],
) -> Engine:
    artifact, schema, layout, scorer = base
    terms = layout.terms()
    return Engine(
        lock=threading.Lock(),
        artifact=artifact,
        scorer=scorer,
        schema=schema,
        catalogue=catalogue[0],
        catalogue_store=catalogue[1],
        users=users,
        realtime=state,
        layout=layout,
        assembler=Assembler(layout, schema, catalogue[0], state),
        vectors=vectors,
        sides=SideVectors(scorer),
        terms=terms,
        bounds=term_bounds(terms),
        prior=stack({head: mean for head, (mean, _) in artifact.prior.items()}),
        offsets=offsets,
        waiting=waiting,
    )


def close_engine(engine: Engine) -> None:
    """Close the files; errors are logged."""
    for part in (engine.catalogue_store, engine.users.store):
        try:
            if part is not None:
                part.close()
        except StoreError:
            log.exception("a file could not be closed")
