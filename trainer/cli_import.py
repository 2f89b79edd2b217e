"""`repl-ranker import online-retail | events`, and the import of the shipped sample that `run --sample`
does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.console import Config, DataDir, Json, note, progress_bar, report, settings_of

if TYPE_CHECKING:
    from service.settings import Settings

ONLINE_RETAIL = "online-retail"

app = typer.Typer(help="Import data into the event log.", no_args_is_help=True)

Shift = Annotated[
    str | None,
    typer.Option(
        "--shift-to",
        help="Add one constant to every time so that the last event falls on `now` or an ISO date.",
    ),
]


@app.command("online-retail")
def online_retail(
    file: Annotated[
        Path | None, typer.Argument(help="The CSV (plain, .gz, .xz) [default: the shipped one].")
    ] = None,
    shift_to: Shift = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Import UCI Online Retail: invoice lines become items, purchases and refunds (docs/data.md)."""
    answer = import_online_retail(settings_of(data_dir, config), file, shift_to, quiet=json)
    report(answer, json, lambda: _lines(answer))


@app.command("events")
def events(
    files: list[Path],
    again: Annotated[
        bool, typer.Option("--again", help="Import a file although it was imported before.")
    ] = False,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Import files of events (JSON lines, docs/formats.md §1); exit status 2 if a line could not be read."""
    settings = settings_of(data_dir, config)
    answer = import_files(settings, files, again=again, quiet=json)
    for error in answer["errors"]:
        note(f"{error['file']}, line {error['line']}: {error['message']}")
    report(answer, json)
    if answer["rejected"]:
        raise typer.Exit(2)


def import_files(settings: Settings, files: list[Path], *, again: bool, quiet: bool) -> dict[str, Any]:
    """Append every readable event of the files. Raises InvalidInput for a file that was imported before."""
    from features.event_log import open_log
    from trainer.importing import record_of_imports
    from trainer.importing.load import Loaded, file_name, file_records, load

    names = [file_name(file) for file in files]
    if not again:
        for name in names:
            record_of_imports.refuse_known(settings.data_dir, name)
    total = Loaded()
    with closing(open_log(settings)) as log:
        for file, name in zip(files, names, strict=True):
            loaded = Loaded()
            with progress_bar(f"importing {file.name}", "events", quiet=quiet) as progress:
                load(log, file_records(file, settings.tenant, loaded), 0, loaded, progress)
            record_of_imports.finish(settings.data_dir, name, {"shift_ms": 0, **loaded.as_dict()})
            total.add(loaded)
    return total.as_dict()


def import_sample(settings: Settings) -> None:
    """Import the shipped data, moved to now, unless it is there already or the log holds other events."""
    from features.event_log import open_log
    from features.records import partitions_in
    from trainer.importing import record_of_imports

    if record_of_imports.is_complete(settings.data_dir, ONLINE_RETAIL):
        return
    cut_off = ONLINE_RETAIL in record_of_imports.read(settings.data_dir)
    with closing(open_log(settings)) as log:
        ends = log.end_offsets()
        empty = not any(ends[name] for name in partitions_in("event", ends))
    if empty or cut_off:
        for line in _lines(import_online_retail(settings, None, "now")):
            note(line)


def import_online_retail(
    settings: Settings, file: Path | None, shift_to: str | None, *, quiet: bool = False
) -> dict[str, Any]:
    """Read, shift, append, and note in import.json. Returns the report.

    Raises InvalidInput when the file cannot be read or was imported into this data directory before.
    """
    from features.event_log import open_log
    from features.records import event_record
    from trainer.importing import record_of_imports
    from trainer.importing.load import Loaded, load
    from trainer.importing.online_retail import read, sample_file

    started = time.perf_counter()
    with progress_bar("reading invoices", "rows", quiet=quiet) as progress:
        found = read(file or sample_file(), progress)
    shift = record_of_imports.begin(settings.data_dir, ONLINE_RETAIL, shift_to, found.report.last)
    found.report.shift_ms = shift
    loaded = Loaded()
    with (
        closing(open_log(settings)) as log,
        progress_bar("importing events", "events", quiet=quiet) as progress,
    ):
        events = found.events(shift, settings.tenant)
        records = (event_record(event, imported=True) for event in events)
        load(log, records, found.count(), loaded, progress)
    seconds = time.perf_counter() - started
    answer = {**found.report.as_dict(), **loaded.as_dict(), "seconds": round(seconds, 2)}
    answer["rows_per_second"] = round(answer["rows"] / seconds)
    record_of_imports.finish(settings.data_dir, ONLINE_RETAIL, answer)
    return answer


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    speed = f"{answer['rows_per_second']:,} a second"
    yield f"{answer['rows']:,} rows in {answer['seconds']:.1f} s ({speed}), of these"
    for fate, count in sorted(answer["by_fate"].items(), key=lambda pair: -pair[1]):
        yield f"  {count:>9,}  {fate}"
    known = f", {answer['duplicates']:,} were known" if answer["duplicates"] else ""
    found = f"{answer['items']:,} items, {answer['customers']:,} customers"
    yield f"{answer['accepted']:,} events taken{known}; {found}"
    if answer["shift_ms"]:
        days = answer["shift_ms"] / 86_400_000
        yield f"every time was moved by {days:+,.3f} days"
    yield "the data are purchases only: no clicks, no impressions, no queries"
