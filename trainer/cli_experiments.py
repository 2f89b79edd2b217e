"""`repl-ranker experiments list | report | aa`: what is configured, what came of it, whether the statistics hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.console import Config, DataDir, Json, progress_bar, report, settings_of

if TYPE_CHECKING:
    from service.settings import Settings

app = typer.Typer(help="List experiments, compare their arms, check the statistics.", no_args_is_help=True)


@app.command("list")
def list_experiments(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """List the experiments of the settings in the order in which they take users."""
    found = {
        name: one.model_dump(mode="json", exclude_none=True)
        for name, one in settings_of(data_dir, config).experiments.items()
    }
    report({"experiments": found}, json, lambda: _listed(found))


def _listed(found: dict[str, Any]) -> Iterator[str]:
    if not found:
        yield "no experiments; docs/ab-tests.md shows the settings of one"
    for name, one in found.items():
        period = f"{one.get('start', 'always')} .. {one.get('end', '')}".removesuffix(" .. ")
        yield f"{name}: surface {one.get('surface', 'both')}, {period}"
        for arm, what in one["arms"].items():
            number, top = what.get("version", ""), f"top {what['top']}" if "top" in what else ""
            yield f"  {arm:<24} {what['share']:>6.1%}  {what['does']} {number}{top}".rstrip()


@app.command("report")
def report_experiment(
    name: Annotated[str, typer.Argument(help="Name of the experiment.")],
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Compare the arms of an experiment: CTR, CVR and revenue by user, with intervals, from the event log."""
    from features.event_log import open_log
    from trainer.experiments.report import report as report_of

    settings = settings_of(data_dir, config)
    with closing(open_log(settings)) as log:
        answer = report_of(settings, log, name)
    report(answer, json, lambda: _reported(answer))


def _reported(answer: dict[str, Any]) -> Iterator[str]:
    first, last = (_time(answer[name]) for name in ("from", "to"))
    yield f"{answer['experiment']}: answers from {first} to {last}; reference arm {answer['reference']}"
    ratio = answer["sample_ratio"]
    yield f"sample ratio: chi-square {_shown(ratio['chi_square'])}, p {_shown(ratio['p'])}"
    yield ""
    yield f"{'arm':<20} {'users':>9} {'answers':>9} {'impressions':>12} {'clicks':>9} {'purchases':>9} {'revenue':>12}"
    for arm, one in answer["arms"].items():
        yield (
            f"{arm:<20} {one['users']:>9,} {one['answers']:>9,} {one['impressions']:>12,} {one['clicks']:>9,} "
            f"{one['purchases']:>9,} {one['revenue']:>12,.2f}"
        )
    for metric in ("ctr", "cvr", "purchase_rate", "revenue_per_user"):
        yield ""
        yield metric
        yield from _metric(answer, metric)
    left = {name: n for name, n in answer["left_out"].items() if n}
    if left:
        yield ""
        yield "not counted: " + ", ".join(f"{name} {n:,}" for name, n in left.items())
    for warning in answer["warnings"]:
        yield f"WARN {warning}"


def _metric(answer: dict[str, Any], metric: str) -> Iterator[str]:
    for arm, one in answer["arms"].items():
        found = one[metric]
        line = f"  {arm:<18} {_shown(found['value']):>10} [{_shown(found['low'])}, {_shown(found['high'])}]"
        if arm in answer["differences"]:
            gap = answer["differences"][arm][metric.removesuffix("_per_user")]
            line += (
                f"   {_percent(gap['relative'])} [{_percent(gap['relative_low'])}, {_percent(gap['relative_high'])}]"
                f"  p {_shown(gap['p'])}"
            )
        yield line


def _time(ms: int | None) -> str:
    return "-" if ms is None else datetime.fromtimestamp(ms / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"


@app.command("aa")
def aa(
    times: Annotated[int, typer.Option("--times", min=10, max=100_000, help="How many random splits.")] = 1_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the salts.")] = 17,
    sample: Annotated[
        bool, typer.Option("--sample", help="Split a log made from the shipped purchases, not that of the data.")
    ] = False,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Split the same log by random salts: p < .05 must come out in 5 % of the splits (status 1 if beyond ± 2)."""
    from trainer.experiments.aa import figures

    settings = settings_of(data_dir, config)
    tally = _sample(json) if sample else _counted(settings)
    with progress_bar("splitting", "times", quiet=json) as progress:
        answer = figures(tally, times, seed, progress)
    report(answer, json)
    if not answer["within"]:
        raise typer.Exit(1)


def _counted(settings: Settings) -> Any:
    from features.event_log import open_log
    from trainer.experiments.report import rules_of, schema_of
    from trainer.experiments.tally import Tally

    tally = Tally(None, [], schema_of(settings), rules_of(settings))
    with closing(open_log(settings)) as log:
        tally.read(log)
    return tally


def _sample(quiet: bool) -> Any:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from features.event_log import open_log
    from service.settings import Settings
    from trainer.experiments.retail import write
    from trainer.importing.online_retail import read, sample_file

    with TemporaryDirectory(prefix="repl-aa-") as place:
        with progress_bar("reading Online Retail", quiet=quiet) as progress:
            data = read(sample_file(), progress)
        settings = Settings(data_dir=Path(place))
        with closing(open_log(settings)) as log:
            write(data, log)
        return _counted(settings)
