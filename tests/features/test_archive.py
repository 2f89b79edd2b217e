"""The archive: every record of the log once and exact, whatever is killed when, merged, and blanked with a user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from archive_kit import DAY, START, Clock, click, content, deletion, fill, served

from features.errors import Fenced, LogError, OffsetLost, SettingsError
from features.event_log_archive import ArchiveLog
from features.event_log_archive_store import KEEP_MANIFESTS, ArchiveStore
from features.event_log_file import EmbeddedEventLog, LogLimits
from features.records import NewRecord, Record
from trainer.archive.sink import Sink
from trainer.archive.tidy import GRACE_MS, ORPHANS_MS, Tidy


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(data_dir: Path, clock: Clock) -> Iterator[EmbeddedEventLog]:
    with closing(EmbeddedEventLog(data_dir, LogLimits(), clock)) as made:
        yield made


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "archive")


def archived(log: EmbeddedEventLog, url: str, **more: int) -> Sink:
    sink = Sink(log, ArchiveStore(url), clock=log._files["event"].clock, **more)
    sink.catch_up()
    return sink


def objects(url: str) -> set[str]:
    return {path for path in ArchiveStore(url).place.list() if path.startswith("tenant=")}


def named(url: str) -> set[str]:
    manifest = ArchiveStore(url).latest()
    assert manifest is not None
    return {part.path for part in manifest.parts}


def test_an_archive_gives_every_record_back_exactly(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    fill(log, clock, 1_500)
    archived(log, url, rows=400)
    assert len(named(url)) > 50
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
        assert found.end_offsets() == {n: at for n, at in log.end_offsets().items() if n != "dead-letter/0"}
        for offset in (0, 3, 399, 400, 1_200):
            assert found.get("event", offset) == log.get("event", offset)
            assert found.get("served", offset // 3) == log.get("served", offset // 3)
        assert found.get("event", 10_000) is None
        assert found.read("event", 700, 5) == log.read("event", 700, 5)
        assert found.read("event", 20, 5) == log.read("event", 20, 5)
        assert found.read("event", 0, max_bytes=1) == log.read("event", 0, 1)
        with pytest.raises(LogError, match="not appended to"):
            found.append("event", [])


def test_other_tools_read_it_by_tenant_and_date(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    fill(log, clock, 300)
    archived(log, url)
    folders = {path.rpartition("/")[0] for path in named(url)}
    assert "tenant=default/date=2025-06-15" in folders
    assert any(folder.startswith("tenant=shop%2F2%20%C3%BC/date=") for folder in folders)
    table = ds.dataset([f"{url}/{path}" for path in named(url) if "/event-" in path]).to_table()
    assert table.num_rows == log.end_offsets()["event/0"]
    assert {*Record._fields, "topic"} == set(table.column_names)
    assert set(table.column("topic").to_pylist()) == {log.identity().topics["event"]}


def test_a_later_run_goes_on_where_the_manifest_says(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    assert archived(log, url).catch_up() == 0
    for seed in range(4):
        fill(log, clock, 60, seed=seed + 1)
        archived(log, url)
    assert archived(log, url).flush() == 0
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
    assert len(ArchiveStore(url)._numbers()) <= KEEP_MANIFESTS


def killed_at(step: int, occurrence: int, log: Path, url: str, clock: int, work: str) -> int:
    """Run sink or tidy in a process that kills itself at a step; its exit status."""
    child = os.fork()
    if child == 0:
        code, counted = 9, 0

        def steps(number: int) -> None:
            nonlocal counted
            counted += number == step
            if number == step and counted == occurrence:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            opened = EmbeddedEventLog(log, LogLimits(), Clock(clock))
            inner = steps if work == "sink" else lambda number: None
            sink = Sink(opened, ArchiveStore(url), clock=Clock(clock), rows=200, steps=inner)
            sink.catch_up()
            if work == "tidy":
                Tidy(sink.store, Clock(clock), steps).run(sink.manifest)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("occurrence", [1, 3])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_killed_at_a_step_of_a_flush_nothing_is_lost_or_twice(
    log: EmbeddedEventLog, data_dir: Path, clock: Clock, url: str, step: int, occurrence: int
) -> None:
    fill(log, clock, 700)
    assert killed_at(step, occurrence, data_dir, url, clock.now, "sink") == -signal.SIGKILL
    if step == 1 and occurrence == 1:
        with pytest.raises(LogError, match="there is no archive"):
            ArchiveLog(url)
    sink = archived(log, url, rows=333)
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
    left = objects(url) - named(url)
    assert bool(left) == (step == 1), "parts that no manifest names"
    manifest, swept = sink.store.sweep(sink.manifest, 4_000_000_000_000, ORPHANS_MS)
    assert swept == len(left)
    assert objects(url) == {part.path for part in manifest.parts}


def test_a_part_that_was_half_written_is_no_part(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    fill(log, clock, 100)
    archived(log, url)
    draft = Path(url) / "tenant=default" / ".tmp-1-abc"
    draft.write_bytes(b"PAR1 and then nothing")
    notes = Path(url) / "notes.txt"
    notes.write_text("somebody's own")
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
    sink = archived(log, url)
    sink.store.sweep(sink.manifest, 4_000_000_000_000, ORPHANS_MS)
    assert not draft.exists()
    assert notes.exists()


def test_of_two_sinks_one_is_fenced_off(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    fill(log, clock, 100)
    first, second = (Sink(log, ArchiveStore(url), clock=clock) for _ in range(2))
    assert first.catch_up() > 100
    with pytest.raises(Fenced, match="another `archive` writes"):
        second.catch_up()
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)


def test_small_parts_of_past_dates_are_merged(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    fill(log, clock, 1_000)
    sink = archived(log, url, rows=100)
    before = sink.manifest
    reading = ArchiveLog(url)
    tidy = Tidy(sink.store, clock)
    sink.manifest = tidy.run(sink.manifest)
    chunks = {(part.stream, part.tenant, part.date) for part in before.parts}
    today = max(part.date for part in before.parts)
    kept = [part for part in sink.manifest.parts if part.date == today]
    assert len(sink.manifest.parts) == len({one for one in chunks if one[2] != today}) + len(kept)
    assert tidy.counts["merged"] > 50
    with closing(ArchiveLog(url)) as found, closing(reading):
        assert content(found) == content(log)
        assert content(reading) == content(log), "a reader of the manifest before goes on"
    clock.now += GRACE_MS
    sink.manifest = tidy.run(sink.manifest)
    assert objects(url) == named(url)
    fill(log, clock, 50, seed=2)
    assert sink.catch_up() > 0
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)


def test_merges_are_bounded(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    fill(log, clock, 600)
    sink = archived(log, url, rows=50)
    target = 4_000
    sink.manifest = Tidy(sink.store, clock, target=target).run(sink.manifest)
    assert all(part.body <= target for part in sink.manifest.parts if part.rows > 50)
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)


@pytest.mark.parametrize("step", [1, 2])
def test_killed_while_merging_the_archive_is_whole(
    log: EmbeddedEventLog, data_dir: Path, clock: Clock, url: str, step: int
) -> None:
    fill(log, clock, 400)
    archived(log, url, rows=50)
    assert killed_at(step, 3, data_dir, url, clock.now, "tidy") == -signal.SIGKILL
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
    sink = archived(log, url)
    Tidy(sink.store, clock).run(sink.manifest)
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)


def test_a_deleted_user_is_blanked_as_on_the_log(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    log.append("event", [click(n, user, START) for n, user in enumerate(("anna", "bob", "anna"))])
    log.append("event", [NewRecord("interaction", "other", START, "anna", b'{"user":"anna"}')])
    log.append("event", [NewRecord("interaction", "default", START, "anna", b'{"session":"anna"}')])
    log.append("served", [served(1, "anna", START), served(2, "bob", START)])
    sink = archived(log, url)
    clock.now += 1_000
    log.append("event", [deletion(1, "anna", clock.now), click(7, "anna", clock.now)])
    clock.now += 1_000
    log.append("served", [served(3, "anna", clock.now)])
    sink.catch_up()
    held = objects(url)
    assert any(b'"user":"anna"' in r.body for r in ArchiveLog(url).read("event", 0, 3))
    tidy = Tidy(sink.store, clock)
    sink.manifest = tidy.run(sink.manifest)
    log.blank_user("default", "anna", before=5)
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
        assert [r.kind for r in found.read("event", 0)] == [
            "blank", "interaction", "blank", "interaction", "interaction", "user", "interaction",
        ]  # fmt: skip
        assert [r.kind for r in found.read("served", 0)] == ["blank", "served", "served"]
    assert tidy.counts["blanked"] == 3
    assert sink.manifest.deletions == []
    gone = held - objects(url)
    assert gone, "what held her rows is deleted at once"
    assert gone.isdisjoint(named(url))


def test_what_expired_before_it_was_archived_is_told_and_may_be_accepted(
    data_dir: Path, clock: Clock, url: str
) -> None:
    with closing(EmbeddedEventLog(data_dir, LogLimits(event_age_ms=DAY), clock)) as log:
        log.append("event", [click(n, "anna", clock.now) for n in range(10)])
        archived(log, url)
        log.append("event", [click(10 + n, "anna", clock.now) for n in range(10)])
        clock.now += 2 * DAY
        log.append("event", [click(20 + n, "anna", clock.now) for n in range(10)])
        log.retain(clock.now, {"event/0": 30})
        with pytest.raises(OffsetLost, match=r"--accept-gaps") as refused:
            archived(log, url)
        assert "begins at offset 20" in refused.value.message
        sink = Sink(log, ArchiveStore(url), clock=clock, accept_gaps=True)
        sink.catch_up()
        with closing(ArchiveLog(url)) as found:
            assert [r.offset for r in found.read("event", 0)] == [*range(10), *range(20, 30)]
            assert [(g.name, g.start, g.end) for g in found.manifest.gaps] == [("event/0", 10, 20)]


def test_another_log_is_refused(log: EmbeddedEventLog, clock: Clock, url: str, tmp_path: Path) -> None:
    fill(log, clock, 20)
    archived(log, url)
    with (
        closing(EmbeddedEventLog(tmp_path / "other", LogLimits(), clock)) as other,
        pytest.raises(LogError, match="archive is of another log"),
    ):
        archived(other, url)
    with closing(EmbeddedEventLog(log.data_dir, LogLimits(), clock)) as again:
        assert again.identity() == log.identity()


def test_damage_and_a_wrong_url_are_named(log: EmbeddedEventLog, clock: Clock, url: str) -> None:
    fill(log, clock, 50)
    archived(log, url)
    path = next(iter(sorted(path for path in named(url) if "/event-" in path)))
    (Path(url) / path).write_bytes(b"not parquet")
    with closing(ArchiveLog(url)) as found, pytest.raises(LogError, match="cannot be read") as refused:
        content(found)
    assert refused.value.value == path
    (Path(url) / "manifest" / f"{999:016d}.json").write_text('{"v":2}')
    with pytest.raises(LogError, match="format version 2"):
        ArchiveLog(url)
    with pytest.raises(SettingsError, match="no archive can lie there"):
        ArchiveStore("gopher://host/x")


def test_the_command_follows_until_it_is_told_to_stop(
    log: EmbeddedEventLog, data_dir: Path, clock: Clock, url: str, root: Path
) -> None:
    fill(log, clock, 100)
    command = [sys.executable, "-m", "trainer.cli", "archive", "--to", url, "--every", "1", "--data-dir", str(data_dir)]
    pipe = subprocess.PIPE
    running = subprocess.Popen([*command, "--json"], cwd=root, stdout=pipe, stderr=pipe, text=True)
    try:
        _until(lambda: ArchiveStore(url).latest() is not None)
        fill(log, clock, 30, seed=2)
        ends = {name: at for name, at in log.end_offsets().items() if name != "dead-letter/0"}
        _until(lambda: ArchiveLog(url).end_offsets() == ends)
    finally:
        running.send_signal(signal.SIGTERM)
        out, errors = running.communicate(timeout=30)
    assert running.returncode == 0, errors
    assert json.loads(out)["offsets"] == ends
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
        began = found.manifest.began
        assert began is not None
        assert began.rules["hold_ms"] == 5_000


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_object_store_holds_the_same(log: EmbeddedEventLog, clock: Clock) -> None:
    """fsspec's own store in memory: no rename, no directories, as in a bucket."""
    url = f"memory://{os.getpid()}-{log.identity().topics['event']}"
    fill(log, clock, 300)
    sink = archived(log, url, rows=100)
    sink.manifest = Tidy(sink.store, clock).run(sink.manifest)
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
        assert found.get("event", 77) == log.get("event", 77)
    second = Sink(log, ArchiveStore(url), clock=clock)
    fill(log, clock, 10, seed=3)
    second.catch_up()
    with pytest.raises(Fenced):
        sink.catch_up()
