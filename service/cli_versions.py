"""`repl-ranker versions …`: look at weight versions, and ask the trainer to pin, unpin or roll back.

Reading goes to the weight store directly, so that it works while nothing runs. A pin, unpin or rollback is
a record on the control stream; the trainer carries it out with its next cut, and `--wait` waits for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.console import Config, DataDir, Json, report, settings_of

if TYPE_CHECKING:
    from service.settings import Settings
    from service.weight_store import WeightStore

app = typer.Typer(help="List, compare, pin and roll back weight versions.", no_args_is_help=True)

Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait until the trainer has done it; 0 does not wait.")
]
Number = Annotated[int, typer.Argument(help="Number of the version.", min=0)]


@contextmanager
def open_store(settings: Settings) -> Iterator[WeightStore]:
    from features.errors import StoreError
    from service.weight_store import open_weight_store

    if settings.weights_url is None and not (settings.data_dir / "trainer.db").exists():
        hint = "name the right one with --data-dir, or start `repl-ranker run` first"
        raise StoreError(
            f"no weights in {settings.data_dir}", field="data_dir", value=settings.data_dir, hint=hint
        )
    with closing(open_weight_store(settings)) as store:
        yield store


@app.command("list")
def list_versions(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest first.")] = 20,
    before: Annotated[int | None, typer.Option("--before", help="Only versions older than this one.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List weight versions, newest first."""
    with open_store(settings_of(data_dir, config)) as store:
        found = [version.info() for version in store.versions(limit, before)]
        pinned = store.pinned()
    report({"pinned": pinned, "versions": found}, json, lambda: _table(found, pinned))


def _table(found: list[dict[str, Any]], pinned: int | None) -> Iterator[str]:
    yield f"{'version':>8}  {'kind':<8}  {'weights of':>10}  {'trained through':<23}  {'hash':<12}  state"
    for version in found:
        states = ["pinned: served" if version["v"] == pinned else "pinned" if version["pinned"] else ""]
        states += [f"held: {version['held']}"] if version["held"] else []
        through = _time(version["watermark"])
        state = ", ".join(part for part in states if part)
        yield (
            f"{version['v']:>8}  {version['kind']:<8}  {version['weights_version']:>10}  {through:<23}  "
            f"{version['hash'][:12]}  {state}"
        ).rstrip()


def _time(ms: int) -> str:
    return (
        datetime.fromtimestamp(ms / 1e3, UTC)
        .isoformat(sep=" ", timespec="milliseconds")
        .removesuffix("+00:00")
    )


@app.command("show")
def show_version(
    version: Number,
    against: Annotated[
        int | None,
        typer.Option("--against", help="Say how far, by head, the weights are from this version's."),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show one version: what it was trained through, its hash, the norms of its weights, the distance to
    another.
    """
    with open_store(settings_of(data_dir, config)) as store:
        found = store.get(version)
        answer = found.info() | {"norms": found.norms()}
        if against is not None:
            answer |= {"against": against, "moved": found.moved_from(store.get(against))}
    report(answer, json)


@app.command("diff")
def diff_versions(
    a: Number,
    b: Number,
    top: Annotated[int, typer.Option("--top", min=1, help="How many inputs, largest change first.")] = 20,
    head: Annotated[str | None, typer.Option("--head", help="click or purchase [default: both].")] = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show which inputs' weights changed most from version A to version B, by name and by block."""
    settings = settings_of(data_dir, config)
    from service.version_diff import compare, lines

    with open_store(settings) as store:
        answer = compare(store.get(a), store.get(b), settings, top=top, head=head)
    report(answer, json, lambda: lines(answer))


@app.command("pin")
def pin(
    version: Number, wait: Wait = 10.0, data_dir: DataDir = None, config: Config = None, json: Json = False
) -> None:
    """Serve the weights of this version until it is unpinned; learning goes on, counters and user state
    too.
    """
    settings = settings_of(data_dir, config)
    with open_store(settings) as store:
        store.get(version)
        offset = control(settings, "pin", {"version": version})
        done = waited(wait, lambda: store.pinned() == version)
    report({"pin": version, "offset": offset, "pending": not done}, json)


@app.command("unpin")
def unpin(
    version: Number, wait: Wait = 10.0, data_dir: DataDir = None, config: Config = None, json: Json = False
) -> None:
    """End a pin: the newest weights are served again (or those pinned before)."""
    settings = settings_of(data_dir, config)
    with open_store(settings) as store:
        offset = control(settings, "unpin", {"version": version})
        done = waited(wait, lambda: store.pinned() != version)
    report({"unpin": version, "offset": offset, "pending": not done}, json)


@app.command("rollback")
def rollback(
    version: Number,
    skip: Annotated[
        str | None,
        typer.Option(
            "--skip", help="FROM..TO to leave out: offsets, or times of append [default: all since VERSION]."
        ),
    ] = None,
    counters: Annotated[
        bool,
        typer.Option(
            "--counters", help="Rebuild counters, i2i and the trainer's user states without the range of --skip, too."
        ),
    ] = False,
    wait: Wait = 10.0,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Go back to the weights of this version, and never learn again what was learned since, or in the range (weights
    only, but for --counters).
    """
    settings = settings_of(data_dir, config)
    with open_store(settings) as store:
        store.get(version)
        body: dict[str, Any] = {"to": version, "skip": _range(settings, skip), "applies_to": "weights"}
        if counters:
            body |= {"counters": True}
            _check_reach(settings, store, body["skip"])
        latest = store.latest()
        before = latest.v if latest is not None else 0
        offset = control(settings, "rollback", body)
        done = waited(wait, lambda: any(new.kind == "rollback" for new in store.versions_after(before)))
    report({"rollback": version, "skip": body["skip"], "offset": offset, "pending": not done}, json)


def _range(settings: Settings, text: str | None) -> dict[str, dict[str, int]] | None:
    """`FROM..TO` as offset maps; None stays None. Raises InvalidRequest, LogError."""
    if text is None:
        return None
    from features.event_log import open_log
    from service.skip_range import skip_range

    with closing(open_log(settings)) as log:
        return skip_range(text, log)


def _check_reach(settings: Settings, store: WeightStore, skip: dict[str, dict[str, int]] | None) -> None:
    """Raises InvalidRequest where counters cannot be rebuilt without the range, or there is none; LogError."""
    from features.errors import InvalidRequest
    from features.event_log import open_log
    from service.skip_range import HINT, check_reach

    if skip is None:
        raise InvalidRequest("--counters needs the range to leave out", field="--skip", hint=HINT)
    with closing(open_log(settings)) as log:
        check_reach(log, store, skip)


def control(settings: Settings, kind: str, body: dict[str, Any]) -> int:
    """Append a control record for the trainer; returns its offset."""
    import orjson

    from features.event_log import open_log
    from features.records import NewRecord

    record = NewRecord(
        kind,
        settings.tenant,
        time.time_ns() // 1_000_000,
        "control",
        orjson.dumps({"v": 1, "by": "cli", **body}),
    )
    with closing(open_log(settings)) as log:
        return log.append("control", [record])[0] or 0


def waited(seconds: float, done: Callable[[], bool]) -> bool:
    """True as soon as the trainer has done it, False after so many seconds."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True
