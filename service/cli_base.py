"""`repl-ranker base …`: roll another base model out: stage it, promote it, take it back; and how far that is.

Each is a record on the control stream, which the trainer carries out or refuses with its next cut; what became of it
stands in the trainer's status. Only `fetch` and `stage` touch files: they put the base into this data directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli_versions import control, open_store, waited
from service.console import Config, DataDir, Json, report, settings_of

if TYPE_CHECKING:
    from service.settings import Settings
    from service.weight_store import WeightStore

app = typer.Typer(help="Roll out another base model beside the one that answers.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="Its directory or http(s) address: where manifest.json lies.")]
Base = Annotated[str, typer.Argument(help="The base's sha256 [default: the one beside].")]
Wait = Annotated[float, typer.Option("--wait", help="Seconds to wait for the trainer's answer.")]


@app.command("fetch")
def fetch_base(source: Source, data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Fetch a base into DATA_DIR/base and check every file; nothing is served by it yet."""
    from service.base_rollout import fetched

    report({"base": fetched(settings_of(data_dir, config), source)}, json)


@app.command("stage")
def stage(
    source: Source,
    wait: Wait = 10.0,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Have rankers load a base beside the one that answers, and the trainer learn its last layer in the background."""
    settings = settings_of(data_dir, config)
    from service.base_rollout import stage_body

    body = stage_body(settings, source)
    with open_store(settings) as store:
        answer = _carried_out(settings, store, "base-stage", body, wait)
    _report(answer, json, wait)


@app.command("promote")
def promote(
    base: Base = "",
    percent: Annotated[
        float, typer.Option("--percent", help="Of the users, by their hash; 100: all, for good.")
    ] = 100.0,
    wait: Annotated[
        float, typer.Option("--wait", help="Seconds to wait until it has caught up and can be judged.")
    ] = 10.0,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Answer by the staged base; refused with the figures where its log loss is more than 2 % above the live pair's."""
    settings = settings_of(data_dir, config)
    from service.base_rollout import promote_body, said

    with open_store(settings) as store:
        waited(wait, lambda: not said(store).get("hinders"))
        body = promote_body(store, base, percent)
        answer = _carried_out(settings, store, "base-promote", body, max(10.0, wait))
    _report(answer, json, wait)


@app.command("revert")
def revert(
    wait: Wait = 10.0,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Go back to the base before: its pair was kept up to date all the while."""
    settings = settings_of(data_dir, config)
    with open_store(settings) as store:
        answer = _carried_out(settings, store, "base-revert", {}, wait)
    _report(answer, json, wait)


@app.command("status")
def status(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Which base answers, which one stands beside it, how far that one has come, and both pairs' log loss."""
    from service import base_rollout

    with open_store(settings_of(data_dir, config)) as store:
        answer = base_rollout.status(store)
    report(answer, json, lambda: _lines(answer))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"answers   {found.get('live', 'not known: no trainer has run yet')}"
    beside = found.get("beside") or found.get("staged")
    if beside:
        yield f"beside    {beside}"
        yield f"state     {found['state']}" + (f", {found['behind']:,} records behind" if found["behind"] else "")
    if found.get("percent"):
        yield f"percent   {found['percent']:g} of the users are answered by the one beside"
    figures = found.get("figures") or {}
    if figures.get("ratio") is not None:
        yield (
            f"log loss  {figures['loss_live']:.5f} live, {figures['loss_beside']:.5f} beside "
            f"({figures['ratio'] - 1:+.2%}) on {figures['shown']:.0f} shown items"
        )
    if figures.get("auc_live") is not None and figures.get("auc_beside") is not None:
        yield f"AUC       {figures['auc_live']:.4f} live, {figures['auc_beside']:.4f} beside"
    for name in ("hinders", "fetch_failed"):
        if found.get(name):
            yield f"{name.replace('_', ' '):<9} {found[name]}"


def _carried_out(
    settings: Settings, store: WeightStore, kind: str, body: dict[str, Any], wait: float
) -> dict[str, Any]:
    """Append the record, and wait for what becomes of it: {…body, offset, done, reason, figures?, pending}."""
    from service.base_rollout import asked, became

    body = asked(body)
    place = control(settings, kind, body)
    waited(wait, lambda: became(store, body, place) is not None)
    pending = {**body, "offset": place, "done": False, "reason": "the trainer has not answered", "pending": True}
    return became(store, body, place) or pending


def _report(answer: dict[str, Any], json: bool, waited: float) -> None:
    """Status 1 where it was refused, and where the trainer did not answer in the time it was given."""
    report(answer, json)
    if not answer["done"] and (waited or not answer["pending"]):
        raise typer.Exit(1)
