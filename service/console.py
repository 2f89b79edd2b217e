"""What every command shares: its options, how settings are read, how a report and an error are printed.

It holds no command. Importing it costs no more than typer does: rich, pydantic and numpy come inside
functions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from features.errors import InvalidInput, ReplError

if TYPE_CHECKING:
    from service.settings import Settings

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where log, weights, user state and bases lie [default: data]."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file (TOML) [default: repl-ranker.toml in the data directory]."),
]
TenantName = Annotated[
    str | None,
    typer.Option("--tenant", help="Of several tenants in the settings, the one to work for [or REPL_TENANT]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of text.")]

Progress = Callable[[int, int], None]
"""Called with (done, total); total 0 means that it is not known."""


def settings_of(data_dir: Path | None, config: Path | None, **more: Any) -> Settings:
    """As `all_settings_of`, for what works on one tenant at a time: the settings of the one that `tenant` names."""
    settings = all_settings_of(data_dir, config, **more)
    if not settings.tenants:
        return settings
    from service.tenant_settings import one_tenant

    return one_tenant(settings)


def all_settings_of(data_dir: Path | None, config: Path | None, **more: Any) -> Settings:
    """The effective settings of this call. Raises SettingsError (status 2)."""
    from service.settings import load_settings

    return load_settings(config, data_dir=data_dir, **more)[0]


def note(text: str) -> None:
    """One line for people, on stderr, so that stdout holds the answer only."""
    print(text, file=sys.stderr, flush=True)


def report(
    answer: Mapping[str, Any], as_json: bool, lines: Callable[[], Iterator[str]] | None = None
) -> None:
    """Print an answer: as one JSON object, or as `lines()`, or as aligned `name  value` pairs."""
    if as_json:
        print(json.dumps(answer, default=str, ensure_ascii=False))
        return
    if lines is not None:
        for line in lines():
            print(line)
        return
    width = max((len(name) for name in answer), default=0)
    for name, value in answer.items():
        print(f"{name:<{width}}  {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items()) or "-"
    return str(value)


def require(module: str, what: str, hint: str) -> None:
    """Raise ReplError when an optional package is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ReplError(f"{what}, which is not installed", hint=hint)


@contextmanager
def progress_bar(text: str, unit: str = "rows", quiet: bool = False) -> Iterator[Progress]:
    """A bar on stderr (a line every few seconds where stderr is no terminal); `quiet` shows nothing."""
    if quiet:
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        yield _lines_of_progress(text, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _lines_of_progress(text: str, unit: str, every: float = 3.0) -> Progress:
    from time import monotonic

    last = monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if monotonic() - last >= every or (total and done >= total):
            last = monotonic()
            note(f"{text}: {done:,}" + (f" of {total:,}" if total else "") + f" {unit}")

    return tell


def main_of(app: typer.Typer) -> None:
    """Run the command line: 0 done, 1 failed, 2 bad input. A ReplError is one message, never a traceback."""
    try:
        app()
    except InvalidInput as error:
        note(f"repl-ranker: {error}")
        sys.exit(2)
    except ReplError as error:
        note(f"repl-ranker: {error}")
        sys.exit(1)
