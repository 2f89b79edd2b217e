"""Runs the base model: items, users and queries to vectors, and (user, query, item) rows to hidden vectors.

onnxruntime with one thread, numpy and the coding kernels; no torch. A row's result is the same to the bit
alone or among thousands: rows are padded to blocks of one size. Keeps no item vectors
(service/item_vectors.py does) and knows nothing of real-time features or the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features import coding
from features.coding import F32, HISTORY, I64
from features.keys import actor_key, item_key, text_key
from features.words import word_keys
from service import scorer_kernels as kernels
from service.artifact import Artifact

if TYPE_CHECKING:
    import onnxruntime as ort

U8 = npt.NDArray[np.uint8]

BLOCK = 64
"""Rows are padded to a multiple of this, so that every row takes the same path through the matrix product."""

PART = 1_024
"""Rows of the fine network at a time."""


class ItemInput(NamedTuple):
    """What an item is encoded from; category and brand as the catalogue holds them (None: unknown)."""

    id: str
    title: str | None = None
    category: str | None = None
    brand: str | None = None


class ItemVectors(NamedTuple):
    tower: F32  # (n, 64)
    coarse: F32  # (n, 32)
    bias: F32  # (n,)


class SideVector(NamedTuple):
    """Of a user or of a query."""

    tower: F32  # (64,)
    coarse: F32  # (32,)


def _session(graph: bytes) -> ort.InferenceSession:
    import onnxruntime as ort  # here, because it starts a thread: workers are forked before (`workers.py`)

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # else every new batch size grows it for good
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _padded(rows: F32) -> F32:
    missing = -len(rows) % BLOCK
    if not missing and rows.flags.c_contiguous and rows.dtype == np.float32:
        return rows
    out = np.zeros((len(rows) + missing, rows.shape[1]), np.float32)
    out[: len(rows)] = rows
    return out


class Scorer:
    """One base model, ready to run. Threads may share it."""

    def __init__(self, artifact: Artifact) -> None:
        self.sha256 = artifact.sha256
        self.hidden_width = artifact.manifest.hidden
        self._tables = artifact.tables
        self._attached = artifact.attached
        self._language = artifact.schema.languages[0] if artifact.schema.languages else ""
        self._sessions = {name: _session(graph) for name, graph in artifact.graphs.items()}
        dim = artifact.tables["item"].shape[1]
        coarse = self._sessions["query"].get_outputs()[1].shape[1]
        self.no_query = SideVector(np.zeros(dim, np.float32), np.zeros(coarse, np.float32))

    def _bags(self, table: str, parts: coding.Keys, k: int = coding.K_ID) -> F32:
        rows = self._tables[table]
        return coding.sum_bags(rows, coding.code_bags(parts, k, len(rows)))

    def _run(self, graph: str, inputs: dict[str, npt.NDArray[Any]]) -> list[F32]:
        return self._sessions[graph].run(None, inputs)  # type: ignore[no-any-return]

    def encode_items(self, items: Sequence[ItemInput]) -> ItemVectors:
        """Vectors of n items: tower f32[n, 64], coarse f32[n, 32], bias f32[n]. Any ID, known or not."""
        n = len(items)
        ids = np.fromiter((item_key(item.id) for item in items), np.uint64, n)
        categories = np.fromiter((_key("category", item.category) for item in items), np.uint64, n)
        brands = np.fromiter((_key("brand", item.brand) for item in items), np.uint64, n)
        parts = coding.item_parts(ids, categories, brands, *self._attached.look_up(ids))
        titles = coding.word_parts([word_keys(item.title, self._language) for item in items])
        keys, words = self._bags("item", parts), self._bags("word", titles, coding.K_WORD)
        tower, coarse, bias = self._run("item", {"keys": _padded(keys), "words": _padded(words)})
        return ItemVectors(tower[:n], coarse[:n], bias[:n, 0])

    def encode_user(
        self, user_id: str | None, item_towers: F32, kinds: U8, times: I64, session: str | None = None
    ) -> SideVector:
        """A user's vectors from her id (else her session's) and her interactions: see `encode_actor`."""
        return self.encode_actor(actor_key(user_id, session), item_towers, kinds, times)

    def encode_actor(self, actor: int, item_towers: F32, kinds: U8, times: I64) -> SideVector:
        """Vectors of an actor key (0: nobody) with interactions oldest first: towers f32[L, 64], kinds
        u8[L], ms i64[L].

        Only the last 50 count. With none her own code is left out: an ID without a past says nothing. Holds
        until her next interaction.
        """
        towers, kinds, times = item_towers[-HISTORY:], kinds[-HISTORY:], times[-HISTORY:]
        steps = len(towers) + 1  # the start step first
        own = self._bags("user", coding.user_parts(np.array([actor if len(towers) else 0], np.uint64)))
        inputs: dict[str, npt.NDArray[Any]] = {
            "own": own,
            "towers": np.zeros((steps, own.shape[1]), np.float32),
            "kinds": np.zeros(steps, np.int64),
            "gaps": np.zeros(steps, np.int64),
            "ages": np.arange(steps, 0, -1, dtype=np.int64),
        }
        inputs["towers"][1:] = towers
        inputs["kinds"][1:] = kinds
        inputs["gaps"][1:] = coding.gap_buckets(times)
        inputs["ages"][0] = 0
        tower, coarse = self._run("user", inputs)
        return SideVector(tower[0], coarse[0])

    def encode_query(self, text: str | None) -> SideVector | None:
        """A query's vectors from its words; None without words (recommendation), which leaves its tower out."""
        words = word_keys(text, self._language)
        if not len(words):
            return None
        bag = self._bags("word", coding.word_parts([words]), coding.K_WORD)
        tower, coarse = self._run("query", {"words": bag})
        return SideVector(tower[0], coarse[0])

    def hidden(self, item_tower: F32, user: SideVector, query: SideVector | None) -> F32:
        """Last hidden vectors f32[n, hidden] of n items for one user and query; row by row independent of n."""
        made = [part for _, part in self.hidden_parts(item_tower, user, query)]
        return np.concatenate(made) if made else np.zeros((0, self.hidden_width), np.float32)

    def hidden_parts(
        self, item_tower: F32, user: SideVector, query: SideVector | None
    ) -> Iterator[tuple[int, F32]]:
        """`hidden` as (place of the first, f32[m, hidden]) of PART items each: what lies between stays in the cache."""
        sides = {"user": user.tower[None], "query": (query or self.no_query).tower[None]}
        for place in range(0, len(item_tower), PART):
            items = item_tower[place : place + PART]
            yield place, self._run("fine", {**sides, "items": _padded(items)})[0][: len(items)]

    def coarse(self, item_coarse: F32, bias: F32, user: SideVector, query: SideVector | None) -> F32:
        """Pre-ranking logits f32[n]: (user + query) · item + bias."""
        out = np.empty(len(item_coarse), np.float32)
        left = user.coarse + (query or self.no_query).coarse
        kernels.dot_rows(np.ascontiguousarray(item_coarse, np.float32), left, bias, out)
        return out


def _key(role: str, value: str | None) -> int:
    return text_key(role, value) if value else 0
