"""`repl-ranker size`: what a shop needs, from the benches' figures. The arithmetic is in `sizing.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.console import Config, DataDir, Json, report

if TYPE_CHECKING:
    from service.figures import Figures
    from service.sizing import Need

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def size(
    users: Annotated[int, typer.Option("--users", min=0, help="Users of the last 90 days (user_state_ttl_days).")],
    items: Annotated[int, typer.Option("--items", min=0, help="Items in the catalogue.")],
    events_per_day: Annotated[float, typer.Option("--events-per-day", min=0, help="Events of an average day.")],
    requests: Annotated[float, typer.Option("--requests", min=0, help="Rank requests a second at the busiest time.")],
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Candidates of a request.")] = 300,
    interactions: Annotated[int, typer.Option("--interactions", min=0, help="Interactions of a user.")] = 50,
    peak: Annotated[float, typer.Option("--peak", min=1, help="Busiest second / average second.")] = 4.0,
    figures: Annotated[Path | None, typer.Option("--figures", help="Another file of figures.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say what a shop needs: partitions, rankers, memory, Redis, bytes a second, disk (from measured figures)."""
    from service.figures import FIGURES, load_figures
    from service.settings import load_settings
    from service.sizing import Demand, plan

    settings, _ = load_settings(config, data_dir=data_dir)
    known = load_figures(figures or FIGURES)
    needs = plan(Demand(users, items, events_per_day, requests, candidates, interactions, peak), known, settings)
    answer = {"needs": [need._asdict() for need in needs], "figures": {n: f.value for n, f in known.figures.items()}}
    report(answer, json, lambda: _lines(needs, known))


def shown(value: float, unit: str) -> str:
    """A value with its unit, three figures."""
    for size, letter in _UNITS if unit else ():
        if value >= size and unit != "%":
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".rstrip() if value < 1_000 else f"{value:,.0f} {unit}".rstrip()


def _lines(needs: list[Need], figures: Figures) -> Iterator[str]:
    width = max(len(need.name) for need in needs)
    for need in needs:
        yield f"{need.name:<{width}}  {shown(need.value, need.unit):>10}  {need.why}"
    dates = sorted({figure.date for figure in figures.figures.values()})
    yield f"measured {dates[0]} to {dates[-1]} (`--json` lists every figure); try it with your own load before you buy"
