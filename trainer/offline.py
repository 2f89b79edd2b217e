"""Offline training: event log → base model. The one place where the steps stand in order; each is a file of
its own.

1. Two passes over the log: when things happened (to split by time), then examples to disk
   (trainer/examples.py).
2. Fit the network before `split`, stop early on the slice after it (trainer/fitting.py).
3. Replay the log through the real-time features with that network's part, which is out of sample after
   `split`, and fit the last layer of each head in batch (trainer/prior_log.py, trainer/prior_heads.py).
4. Train the same network on, up to `held_out`, so that it is fresh when it serves.
5. Write the artifact (trainer/base_files.py) and its report, check it through the ranker's own code on what was
   held out, and install it. The split is by time always. Memory grows with items, recent actors and a bounded
   number of examples, not with the log.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from features.attached import Attached
from features.coding import table_rows
from features.errors import ArtifactError
from features.event_log import EventLog, open_log
from features.layout import ZLayout
from features.schema import Schema
from service.artifact import CURRENT, Artifact, Manifest, install, load_artifact, read_manifest
from service.scorer import Scorer
from service.settings import Settings
from trainer.base_files import BaseParts, bare_manifest, with_findings
from trainer.batches import ItemArrays
from trainer.check import Head, check_figures, head_logits, held_out_examples, matched
from trainer.example_groups import ExampleSet
from trainer.examples import ExampleWriter
from trainer.fitting import FitOptions, FitReport, Fitter
from trainer.importing import record_of_imports
from trainer.log_times import read_events, split_times
from trainer.losses import LossWeights
from trainer.network import Network, NetworkConfig
from trainer.network_part import NetworkPart
from trainer.prior_heads import HeadPrior, fit_head, weak_prior
from trainer.prior_log import PriorLog
from trainer.report import write_report
from trainer.untrained import state_arrays

Progress = Callable[[int, int], None]
"""(steps done, steps in all)."""

MAX_GROUPS = 12_000
"""Requests that give examples to the last layer, at most."""

STEPS = 1_000

Heads = dict[str, Head]


class _Bar:
    """Phases of a training run on one progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._start = self._end = 0.0

    def phase(self, share: float) -> None:
        """The next phase takes this share of the time."""
        self._start, self._end = self._end, min(1.0, self._end + share)
        self.at(0.0)

    def at(self, share: float) -> None:
        done = self._start + (self._end - self._start) * min(1.0, max(0.0, share))
        self._progress(int(STEPS * done), STEPS)


class Training:
    """One run; `run` gives the installed directory. Options beyond the settings are for tests and
    experiments.
    """

    def __init__(
        self,
        settings: Settings,
        schema: Schema,
        log: EventLog,
        progress: Progress,
        *,
        options: FitOptions | None = None,
        more_epochs: int = 2,
        floor_rows: int = 4_096,
        until: int | None = None,
    ) -> None:
        self.settings = settings
        self.schema = schema
        self.log = log
        self.bar = _Bar(progress)
        self.options = options or FitOptions(
            epochs=settings.epochs,
            seed=settings.seed,
            weights=LossWeights(next_item=settings.next_item_weight),
        )
        self.more_epochs = more_epochs
        self.floor_rows = floor_rows
        self.until = until  # ms: nothing from then on is read (a backtest)
        self.layout = ZLayout(NetworkConfig(0, 0, 0).hidden, schema)
        self.windows = settings.click_window_ms, settings.purchase_window_ms

    def run(self, out: Path, origin: dict[str, Any]) -> Path:
        """All steps; `out` keeps bases by sha256 and `current`."""
        torch.set_num_threads(1)
        torch.manual_seed(self.options.seed)
        out.mkdir(parents=True, exist_ok=True)
        self._rows = _rows_of_current(out)
        self.splits = split_times(self.log, self.options.seed, self.until)
        with tempfile.TemporaryDirectory(dir=out, prefix=".training-") as work:
            examples, attached = self._examples(Path(work) / "examples")
            fitter, report = self._fit(examples, attached)
            draft = self._draft(Path(work) / "draft", fitter.network, attached)
            heads = self._network_heads(fitter.network)
            prior_log = self._prior_log(draft, examples)
            self.bar.phase(0.20)
            fitter.carry_on(self.splits.held_out, self.more_epochs, self.bar.at)
            fresh = self._draft(Path(work) / "fresh", fitter.network, attached)
            final_heads = self._matched(draft, fresh, heads, self._network_heads(fitter.network))
            priors = self._priors(prior_log, heads, final_heads, level_known=examples.counts["rankings"] > 0)
            manifest = self._manifest(examples, priors, report, origin)
            parts = BaseParts(fitter.network, attached, priors)
            made = self._write(Path(work) / "base", manifest, parts)
            write_report(made, load_artifact(made).manifest, report, examples.counts)
            self.bar.at(1.0)
            return install(made, out)

    def _examples(self, directory: Path) -> tuple[ExampleSet, Attached]:
        self.bar.phase(0.06)
        writer = ExampleWriter(
            directory,
            self.schema,
            max_items=self.settings.max_items,
            click_window_ms=self.windows[0],
            purchase_window_ms=self.windows[1],
            attach_until=self.splits.split,
        )
        for event in read_events(self.log, self.until):
            writer.feed(event, event.timestamp)
        examples = writer.finish()
        return examples, writer.attached.table(np.array(examples.book.keys, np.uint64))

    def _fit(self, examples: ExampleSet, attached: Attached) -> tuple[Fitter, FitReport]:
        words = len({int(key) for title in examples.book.titles for key in title})
        ids = (examples.actors, len(examples.book), words)
        config = NetworkConfig(*(self._rows or self._new_rows(ids)))
        queries = examples.counts["queries"] > 0
        purchases = 0 < examples.counts["purchases"] < examples.counts["clicks"]
        options = replace(
            self.options,
            sampling=replace(self.options.sampling, titles_as_queries=0.0 if queries else 0.25),
            weights=replace(
                self.options.weights, purchase=self.options.weights.purchase if purchases else 0.0
            ),
        )
        fitter = Fitter(Network(config), examples, ItemArrays(examples.book, attached, config), options)
        self.bar.phase(0.34)
        return fitter, fitter.run(self.splits.split, self.splits.stop, self.bar.at)

    def _new_rows(self, ids: tuple[int, int, int]) -> list[int]:
        """Rows of the tables at a first training: 1/20 of the IDs each, or a share of the byte budget."""
        rows = [table_rows(n, floor=self.floor_rows) for n in ids]
        budget = self.settings.table_bytes
        if budget is None:
            return rows
        return [
            table_rows(n, budget_bytes=budget * r // sum(rows), floor=1)
            for n, r in zip(ids, rows, strict=True)
        ]

    def _draft(self, directory: Path, network: Network, attached: Attached) -> Artifact:
        """The network of step 2 as the ranker would run it, with a prior that nobody reads."""
        priors = {
            head: weak_prior(self.layout.d, self.layout.block("intercept").start)
            for head in ("click", "purchase")
        }
        BaseParts(network, attached, priors).save(directory, self._bare_manifest({}))
        return load_artifact(directory)

    def _network_heads(self, network: Network) -> Heads:
        arrays = state_arrays(network)
        return {
            head: (arrays[f"{head}.weight"][0].astype(np.float64), float(arrays[f"{head}.bias"][0]))
            for head in ("click", "purchase")
        }

    def _prior_log(self, draft: Artifact, examples: ExampleSet) -> PriorLog:
        self.bar.phase(0.20)
        splits = self.splits
        prior_log = PriorLog(
            self.schema,
            NetworkPart(Scorer(draft)),
            network_from=splits.split,
            examples_from=splits.examples_from,
            every=-(-examples.groups // MAX_GROUPS),
            hold_ms=self.settings.hold_ms,
            windows_ms=self.windows,
            max_items=self.settings.max_items,
            seed=self.options.seed,
        )
        span = max(1, splits.last - splits.first)
        prior_log.run(read_events(self.log, self.until), lambda t: self.bar.at((t - splits.first) / span))
        return prior_log

    def _matched(self, draft: Artifact, fresh: Artifact, heads: Heads, final_heads: Heads) -> Heads:
        """The heads of the network trained on, at the scale that the draft's had on rows new to both."""
        logs = [
            held_out_examples(
                artifact, read_events(self.log, self.until), self.splits.held_out, self.settings
            )
            for artifact in (draft, fresh)
        ]
        rows = {"click": [log.click for log in logs], "purchase": [log.purchase for log in logs]}
        return {
            name: matched(head, head_logits(rows[name][0], heads[name]), head_logits(rows[name][1], head))
            for name, head in final_heads.items()
        }

    def _priors(
        self, prior_log: PriorLog, heads: Heads, final_heads: Heads, level_known: bool
    ) -> dict[str, HeadPrior]:
        self.bar.phase(0.20)
        return {
            head: fit_head(
                examples,
                d=self.layout.d,
                hidden=self.layout.hidden,
                intercept=self.layout.block("intercept").start,
                head=heads[head],
                final_head=final_heads[head],
                network_from=self.splits.split,
                level_known=level_known or head != "click",
            )
            for head, examples in (("click", prior_log.click), ("purchase", prior_log.purchase))
        }

    def _bare_manifest(self, origin: dict[str, Any]) -> Manifest:
        return bare_manifest(self.schema, self.layout, self.splits.last, origin)

    def _manifest(
        self, examples: ExampleSet, priors: dict[str, HeadPrior], report: FitReport, origin: dict[str, Any]
    ) -> Manifest:
        counts = examples.counts
        bare = self._bare_manifest({**origin, "counts": dict(counts), "seed": self.options.seed})
        return with_findings(bare, counts, priors, report)

    def _write(self, directory: Path, manifest: Manifest, parts: BaseParts) -> Path:
        """Write, check through the ranker's code on what was held out, and write again with those figures."""
        parts.save(directory, manifest)
        checked = check_figures(
            load_artifact(directory), read_events(self.log, self.until), self.splits.held_out, self.settings
        )
        manifest = msgspec.structs.replace(manifest, metrics={**manifest.metrics, "held_out": checked})
        shutil.rmtree(directory)
        parts.save(directory, manifest)
        return directory


def _rows_of_current(out: Path) -> list[int] | None:
    """Rows of the tables of the base that is served now: they stay as they were at first training."""
    if not (out / CURRENT).exists():
        return None
    try:
        tables = read_manifest(out / (out / CURRENT).read_text(encoding="ascii").strip())[0].tables
    except ArtifactError:
        return None  # made for another code, or gone: sizes are chosen anew
    return [tables[name] for name in ("user", "item", "word")]


def train(
    settings: Settings,
    out: Path,
    *,
    from_archive: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Train a base model from the log of `settings.data_dir`, or from the archive at a URL; returns out/<sha256>,
    which out/current then names.

    Raises InvalidInput when the log holds too little, SchemaError when the schema file is wrong.
    """
    schema = Schema.load(settings.schema_file)
    log = open_log(settings) if from_archive is None else _archive(from_archive)
    try:
        origin = {
            "data": "the event log" if from_archive is None else "an archive of the event log",
            "imports": _imported(settings.data_dir),
            "code": importlib.metadata.version("repl-ranker"),
            "command": "repl-ranker train",
        }
        return Training(settings, schema, log, progress).run(out, origin)
    finally:
        log.close()


def _archive(url: str) -> EventLog:
    from features.event_log_archive import ArchiveLog

    return ArchiveLog(url)


def _imported(data_dir: Path) -> dict[str, Any]:
    """What was imported into this log, by name: events taken and the constant added to their times (ms)."""
    return {
        name: {"events": entry.get("accepted"), "shift_ms": entry.get("shift_ms", 0)}
        for name, entry in record_of_imports.read(data_dir).items()
    }
