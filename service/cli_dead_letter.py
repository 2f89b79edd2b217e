"""`repl-ranker dead-letter …`: look at records that could not be read, and send them again. `dead_letters.py` works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

import typer

from service.console import Config, DataDir, Json, report, settings_of

app = typer.Typer(help="Look at records that could not be read, and send them again.", no_args_is_help=True)


@app.command("list")
def list_letters(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, the newest.")] = 20,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List dead letters, oldest first: number, source, offset, reason."""
    from features.event_log import open_log
    from service.dead_letters import letters

    count, newest = 0, deque(maxlen=limit)  # type: ignore[var-annotated]
    with closing(open_log(settings_of(data_dir, config))) as log:
        for letter in letters(log):
            count += 1
            newest.append(letter)
    found = list(newest)

    def lines() -> Iterator[str]:
        for one in found:
            offset = "-" if one.offset is None else one.offset
            yield f"{one.number:>10}  {one.source:<12} {offset:>10}  {one.reason}"
        yield f"{count:,} dead letters" + (f", the newest {len(found)} shown" if count > len(found) else "")

    report({"count": count, "letters": [one.as_dict() for one in found]}, json, lines)


@app.command("show")
def show_letter(
    number: Annotated[int, typer.Argument(min=0, help="Number of the letter (`list` shows it).")],
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show one dead letter with what it keeps of its record."""
    from features.event_log import open_log
    from service.dead_letters import letter_of

    with closing(open_log(settings_of(data_dir, config))) as log:
        report(letter_of(log, number).as_dict(), json)


@app.command("retry")
def retry_letters(
    number: Annotated[int | None, typer.Argument(min=0, help="Number of the letter [default: --all].")] = None,
    every: Annotated[bool, typer.Option("--all", help="All letters.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Send records again as events, e.g. after an update that can read them; an id that counted counts no more."""
    from features.errors import InvalidRequest
    from features.event_log import open_log, system_clock
    from service.dead_letters import letter_of, letters, retry_all

    if (number is None) != every:
        raise InvalidRequest("name a letter, or --all", field="number", value=number, hint="`dead-letter list`")
    with closing(open_log(settings_of(data_dir, config))) as log:
        chosen = [letter_of(log, number)] if number is not None else list(letters(log))
        answer = retry_all(log, chosen, system_clock)
    report(answer, json)
    if answer["still_refused"]:
        raise typer.Exit(1)
