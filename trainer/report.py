"""The training report beside an artifact: report.md and two plots. It computes no figure, it shows the
manifest's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.artifact import Manifest
from trainer.fitting import FitReport


def write_report(directory: Path, manifest: Manifest, fit: FitReport, counts: Mapping[str, int]) -> None:
    """Write report.md, losses.png and figures.png into `directory`, which exists."""
    _plot(directory / "losses.png", fit.train, "mean loss", "Training losses")
    shown = ("auc", "coarse_auc", "auc_uniform", "auc_popular")
    _plot(
        directory / "figures.png", [_only(epoch, shown) for epoch in fit.later], "AUC", "Later slice of time"
    )
    (directory / "report.md").write_text(_text(manifest, fit, counts), encoding="utf-8")


def _only(figures: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: figures[name] for name in names if name in figures}


def _plot(path: Path, epochs: list[dict[str, float]], label: str, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name in sorted({name for epoch in epochs for name in epoch}):
        axes.plot(
            range(1, len(epochs) + 1), [epoch.get(name, float("nan")) for epoch in epochs], "o-", label=name
        )
    axes.set(xlabel="epoch", ylabel=label, title=title)
    if epochs:
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, tuple("---" for _ in head), *rows)]


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _text(manifest: Manifest, fit: FitReport, counts: Mapping[str, int]) -> str:
    origin = [(str(name), str(value)) for name, value in manifest.origin.items()]
    lines = ["# Training report", "", *_table(origin, ("origin", "")), ""]
    lines += [
        "## What was read",
        "",
        *_table([(name, f"{n:,}") for name, n in counts.items()], ("", "count")),
        "",
    ]
    if manifest.notes:
        lines += ["## Read the figures with this in mind", "", *(f"- {note}" for note in manifest.notes), ""]
    names = sorted({name for epoch in fit.later for name in epoch})
    rows = [(str(k + 1), *(_number(e.get(name, "")) for name in names)) for k, e in enumerate(fit.later)]
    lines += ["## Network alone, on the later slice", "", *_table(rows, ("epoch", *names))]
    lines += ["", f"Kept: epoch {fit.best + 1}.", "", "![losses](losses.png) ![figures](figures.png)", ""]
    for head in manifest.heads:
        figures = manifest.metrics.get(head, {})
        lines += [f"## Last layer: {head}", ""]
        if head in manifest.weak_heads:
            lines += ["No labels to learn from: a weak prior stands here.", ""]
            continue
        scale = manifest.network_scale.get(head, 0.0)
        lines += [f"The gate kept {scale:g} of the network's part.", ""]
        lines += _table([(name, _number(value)) for name, value in figures.items()], ("last examples", ""))
        lines += [""]
    return "\n".join(lines)
