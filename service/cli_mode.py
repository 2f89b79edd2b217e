"""`repl-ranker mode [rank|passthrough]`: the switch that makes every ranker keep the order sent, or rank again.

It writes the weight store directly: neither ranker, trainer nor log is asked.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.console import Config, DataDir, Json, report, settings_of

if TYPE_CHECKING:
    from service.experiments import Mode


def mode(
    wanted: Annotated[
        str | None, typer.Argument(metavar="[rank|passthrough]", help="[default: show what stands]")
    ] = None,
    surface: Annotated[
        int | None, typer.Option("--surface", min=0, max=1, help="0 recommendation, 1 search [default: both].")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Answer in the order sent (passthrough), or rank again, on every ranker within a second."""
    from features.errors import InvalidRequest, StoreError
    from service.passthrough import modes, surfaces_of, switch
    from service.weight_store import open_weight_store

    if wanted not in (None, "rank", "passthrough"):
        raise InvalidRequest("this is no mode", field="mode", value=wanted, hint="rank or passthrough")
    settings = settings_of(data_dir, config)
    if settings.weights_url is None and not (settings.data_dir / "trainer.db").exists():
        hint = "name the data directory of the ranker with --data-dir"
        where = settings.data_dir
        raise StoreError(f"no weight store in {where}", field="data_dir", value=where, hint=hint)
    with closing(open_weight_store(settings)) as store:
        if wanted is None:
            found = modes(surfaces_of(store.flags()))
        else:
            chosen: Mode = "rank" if wanted == "rank" else "passthrough"
            found = switch(store, chosen, surface)
    answer: dict[str, Any] = dict(found)
    report(answer, json)
