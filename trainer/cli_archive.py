"""`repl-ranker archive` and `bootstrap`: the log into an archive, and an archive into a model. Heavy imports stand
inside the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.console import Config, DataDir, Json, note, progress_bar, report, require, settings_of

if TYPE_CHECKING:
    from features.event_log import EventLog
    from features.event_log_archive_manifest import Began
    from features.records import Record
    from service.settings import Settings
    from trainer.archive.sink import Sink

Part = Literal["all", "weights", "users"]
FromArchive = Annotated[
    str | None, typer.Option("--from-archive", help="Read events from the archive at this URL, not from the log.")
]


def require_archive() -> None:
    """Raise ReplError where the extra is not installed."""
    require("pyarrow", "an archive needs pyarrow", "pip install 'repl-ranker[archive]'")


def archive(
    to: Annotated[str, typer.Option("--to", help="Directory or URL (s3://, gs://, …) of the archive.")],
    once: Annotated[bool, typer.Option("--once", help="Archive what is there now, tidy, and end.")] = False,
    every: Annotated[float, typer.Option("--every", min=1, help="Seconds between two writes.")] = 60.0,
    accept_gaps: Annotated[
        bool, typer.Option("--accept-gaps", help="Go on where the log has lost what was not archived.")
    ] = False,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Follow the log into an archive of Parquet files, each record once; merge and blank there. Runs until stopped."""
    require_archive()
    settings = settings_of(data_dir, config)
    from features.event_log import open_log
    from features.event_log_archive_store import ArchiveStore
    from trainer.archive.sink import Sink
    from trainer.archive.tidy import Tidy

    store = ArchiveStore(to)
    with closing(open_log(settings)) as log:
        began = None if store.latest() is not None else _began(settings, log)
        sink, tidy = Sink(log, store, began=began, accept_gaps=accept_gaps), Tidy(store)
        before = sink.manifest.offsets

        def tidied() -> None:
            sink.manifest = tidy.run(sink.manifest)

        if once:
            sink.catch_up()
            tidied()
        else:
            _until_stopped(sink, tidied, every, settings)
        made = sink.manifest
        records = sum(at - before.get(name, made.starts.get(name, 0)) for name, at in made.offsets.items())
        report({"archive": to, "offsets_archived": records, **tidy.counts, "parts": len(made.parts),
                "bytes": sum(part.bytes for part in made.parts), "offsets": made.offsets}, json)  # fmt: skip


def _until_stopped(sink: Sink, tidied: Any, every: float, settings: Settings) -> None:
    import signal
    import threading

    from service.logs import set_up
    from trainer.archive.sink import follow

    set_up(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    follow(sink, stop, every, tidied)


def _began(settings: Settings, log: EventLog) -> Began | None:
    """Base and rules that the trainer began with, where they have not changed since; None where that is not known."""
    import msgspec

    from features.errors import ArtifactError
    from features.event_log_archive_manifest import Began
    from service.weight_store import open_weight_store
    from trainer.bases import current_base
    from trainer.checkpoint import meta_of
    from trainer.rules import Rules

    at, form = log.start_offsets()["control/0"], dict[str, int]()
    while records := log.read("control", at):
        changes = [record for record in records if record.kind in ("base", "settings")]
        if not all(_only_form(record) for record in changes):
            return None
        form = {"form": 1} if changes else form  # what was learned before began without
        at = records[-1].offset + 1
    with closing(open_weight_store(settings)) as store:
        checkpoint = store.latest_checkpoint()
        if checkpoint is not None:
            meta = meta_of({"meta/state": store.chunk(checkpoint.chunks["meta/state"])})
            return Began(meta.base, meta.rules | form)
    try:
        return Began(current_base(settings).sha256, msgspec.structs.asdict(Rules.of(settings)) | form)
    except ArtifactError:
        return None


def _only_form(record: Record) -> bool:
    """A change of the trainer's own form of learning, which an update makes by itself: no setting, no base."""
    from features.records import control_body

    if record.kind != "settings":
        return False
    return control_body(record.kind, record.body).keys() <= {"v", "by", "form"}


def bootstrap(
    archive: Annotated[str, typer.Option("--archive", help="Directory or URL of the archive.")],
    then: Annotated[
        str | None, typer.Option("--then", help="The live log, kafka://… [default: that of the settings].")
    ] = None,
    restore_log: Annotated[
        bool, typer.Option("--restore-log", help="The embedded log is lost: an empty one goes on behind the archive.")
    ] = False,
    part: Annotated[Part, typer.Option("--part", help="What to build.")] = "all",
    skip: Annotated[
        str | None, typer.Option("--skip", help="FROM..TO: then roll back, counters too, without it (needs --back-to).")
    ] = None,
    back_to: Annotated[
        int | None, typer.Option("--back-to", min=0, help="With --skip: the version whose weights to go back to.")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Build counters, i2i, user states and weights from an archive; `learn` and `serve` then go on with the log."""
    require_archive()
    settings = settings_of(data_dir, config, log_url=then)
    import subprocess

    answer: dict[str, Any] = {}
    child = None
    if restore_log:
        answer["restored"] = _restore_log(settings, archive)
    if part == "all":  # beside the weights, on another core
        where = ["--data-dir", str(settings.data_dir)] + (["--config", str(config)] if config else [])
        itself = [sys.executable, "-m", "trainer.cli", "bootstrap", "--archive", archive, "--part", "users", "--json"]
        command = [*itself, *where, *(["--then", then] if then else [])]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        answer |= _build(settings, archive, part, json, _rollback(settings, archive, skip, back_to))
    except BaseException:
        if child is not None:
            child.terminate()
            child.communicate()
        raise
    if child is not None:
        answer |= _of_child(child)
    report(answer, json, lambda: _lines(answer))
    note("`repl-ranker learn` and `serve` go on from here")


def _restore_log(settings: Settings, archive: str) -> list[str]:
    from features.event_log import open_log
    from features.event_log_archive import ArchiveLog
    from features.event_log_restore import restore_log as restore

    with closing(ArchiveLog(archive)) as found, closing(open_log(settings)) as live:
        return restore(live, found.manifest.log, found.manifest.offsets)


def _rollback(settings: Settings, archive: str, skip: str | None, back_to: int | None) -> dict[str, Any] | None:
    """The body of the rollback that `--skip` asks for. Raises InvalidRequest, LogError."""
    if skip is None and back_to is None:
        return None
    from features.errors import InvalidRequest
    from features.event_log import open_log
    from features.event_log_archive import ArchiveLog
    from service.skip_range import skip_range
    from trainer.archive.seam import SeamedLog

    if skip is None or back_to is None:
        hint = "--skip FROM..TO --back-to VERSION (0: the base's prior)"
        raise InvalidRequest("--skip and --back-to go together", field="--skip", value=skip, hint=hint)
    with closing(ArchiveLog(archive)) as found, closing(open_log(settings)) as live:
        whole = SeamedLog(found, live, ("event",))
        return {"to": back_to, "skip": skip_range(skip, whole), "applies_to": "weights", "counters": True}


def _build(
    settings: Settings, archive: str, part: Part, quiet: bool, rollback: dict[str, Any] | None
) -> dict[str, Any]:
    from features.event_log import open_log
    from trainer.archive.bootstrap import bootstrap_weights
    from trainer.archive.users import bootstrap_users

    with closing(open_log(settings)) as live, progress_bar("learning", "events", quiet=quiet) as progress:
        if part == "users":
            return {"users": bootstrap_users(settings, archive, live, progress)}
        return {"weights": bootstrap_weights(settings, archive, live, progress, rollback)}


def _of_child(child: Any) -> dict[str, Any]:
    import orjson

    from features.errors import ReplError

    out, errors = child.communicate()
    if child.returncode:
        raise ReplError(
            f"the weights are built, the user states are not: {errors.strip().splitlines()[-1:]}",
            hint="repl-ranker bootstrap --part users says more",
        )
    found: dict[str, Any] = orjson.loads(out)
    return found


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    if found := answer.get("restored"):
        yield f"log: {', '.join(found)} go on where the archive ends"
    if found := answer.get("weights"):
        how = "the recorded cuts were followed" if found["follows_cuts"] else "cuts were chosen anew"
        yield (
            f"version {found['version']:,}: {found['events']:,} events in {found['seconds']:,.1f} s"
            f" ({found['events_per_second']:,} a second); {how}"
        )
    if found := answer.get("users"):
        yield f"user states: {found['interactions']:,} interactions in {found['seconds']:,.1f} s"
        if found["items"] is not None:
            yield f"items: {found['items']:,}"


def add_to(app: typer.Typer) -> None:
    """Both commands."""
    app.command()(archive)
    app.command()(bootstrap)
