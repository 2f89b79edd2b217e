"""`repl-ranker schema diff A B`: what a change of schema, or of base model, asks for. `schema_diff.py` compares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.console import Config, DataDir, Json, report

if TYPE_CHECKING:
    from service.schema_diff import Difference

app = typer.Typer(help="Compare feature schemas.", no_args_is_help=True)
NEXT = {
    "compatible": "nothing to do: the base model goes on as it is",
    "refit last layer": "train a base with the new schema: repl-ranker train (it fits the last layer, too)",
    "retrain": "train a base with the new schema: repl-ranker train",
}


@app.callback()
def everywhere() -> None:
    """Compare feature schemas."""


@app.command("diff")
def diff(
    a: Annotated[Path, typer.Argument(help="A schema YAML, or the directory of a base model.")],
    b: Annotated[Path, typer.Argument(help="Another one, of either kind.")],
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say what going from A to B asks for: compatible, refit last layer or retrain, field by field; status 1 unless
    compatible.
    """
    from service.schema_diff import differences, read_side, verdict_of

    found = differences(read_side(a), read_side(b))
    verdict = verdict_of(found)
    answer = {"verdict": verdict, "next": NEXT[verdict], "differences": [one._asdict() for one in found]}
    report(answer, json, lambda: _lines(verdict, found))
    if verdict != "compatible":
        raise typer.Exit(1)


def _lines(verdict: str, found: list[Difference]) -> Iterator[str]:
    yield from map(str, found)
    yield f"{verdict}: {NEXT[verdict]}"
