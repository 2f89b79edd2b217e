"""Imports into a real log: counted, repeatable, not done twice, resumed where they were cut off."""

from __future__ import annotations

import csv
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from features.errors import InvalidInput
from features.event_log import open_log
from features.events import from_bytes
from features.records import event_record
from service.settings import Settings
from tests.house.test_online_retail import ROWS, write
from trainer.cli import app
from trainer.importing import record_of_imports
from trainer.importing.online_retail import read, sample_file

RUNNER = CliRunner()
EVENT = {"timestamp": 1_700_000_000_000, "event": "interaction", "type": "click", "user": "u"}


def run(*words: str, status: int = 0) -> dict[str, Any]:
    done = RUNNER.invoke(app, [*words, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def events_in(data_dir: Path) -> list[Any]:
    with closing(open_log(Settings(data_dir=data_dir))) as log:
        return list(log.read("event", 0, 1_000))


@pytest.fixture
def retail(tmp_path: Path) -> Path:
    return write(tmp_path / "retail.csv", ROWS)


def test_online_retail_lands_in_the_log(data_dir: Path, retail: Path) -> None:
    answer = run("import", "online-retail", str(retail), "--data-dir", str(data_dir))
    assert (answer["rows"], answer["accepted"], answer["duplicates"]) == (len(ROWS), 7, 0)
    assert sum(answer["by_fate"].values()) == len(ROWS)
    records = events_in(data_dir)
    assert [record.kind for record in records] == ["item", *["interaction"] * 3, "item", *["interaction"] * 2]
    assert all(record.imported and record.effective_time == record.timestamp for record in records)
    assert [record.timestamp for record in records] == [
        from_bytes(record.body).timestamp for record in records
    ]
    assert record_of_imports.is_complete(data_dir, "online-retail")


def test_a_second_import_is_refused(data_dir: Path, retail: Path) -> None:
    run("import", "online-retail", str(retail), "--data-dir", str(data_dir))
    with pytest.raises(InvalidInput, match="was imported into"):
        run("import", "online-retail", str(retail), "--data-dir", str(data_dir))
    assert len(events_in(data_dir)) == 7


def test_an_import_that_was_cut_off_goes_on_with_the_same_shift(data_dir: Path, retail: Path) -> None:
    first = run("import", "online-retail", str(retail), "--data-dir", str(data_dir), "--shift-to", "now")
    known = json.loads((data_dir / "import.json").read_text())
    known["online-retail"]["complete"] = False
    (data_dir / "import.json").write_text(json.dumps(known))
    again = run("import", "online-retail", str(retail), "--data-dir", str(data_dir), "--shift-to", "now")
    assert again["shift_ms"] == first["shift_ms"] > 0
    assert (again["accepted"], again["duplicates"]) == (0, 7)


def test_shift_to_now_puts_the_last_event_at_now(data_dir: Path, retail: Path) -> None:
    before = time.time() * 1_000
    answer = run("import", "online-retail", str(retail), "--data-dir", str(data_dir), "--shift-to", "now")
    last = events_in(data_dir)[-1].timestamp
    assert before - 1 <= last <= time.time() * 1_000
    assert last == answer["last"] + answer["shift_ms"]


def test_shift_to_a_time_and_to_nonsense(data_dir: Path, retail: Path) -> None:
    words = ("import", "online-retail", str(retail), "--data-dir", str(data_dir), "--shift-to")
    with pytest.raises(InvalidInput, match="no time"):
        run(*words, "soon")
    run(*words, "2026-01-31T12:00:00Z")
    assert events_in(data_dir)[-1].timestamp == 1_769_860_800_000


def jsonl(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_files_of_events_count_what_they_hold(data_dir: Path, tmp_path: Path) -> None:
    good = [{**EVENT, "id": f"e{n}", "item": f"i{n}"} for n in range(3)]
    path = jsonl(tmp_path / "a.jsonl", good[0], good[1], "{broken", good[1], "", good[2], {"event": "item"})
    answer = run("import", "events", str(path), "--data-dir", str(data_dir), status=2)
    assert (answer["received"], answer["accepted"], answer["duplicates"], answer["rejected"]) == (6, 3, 1, 2)
    assert [error["line"] for error in answer["errors"]] == [3, 7]
    assert [record.kind for record in events_in(data_dir)] == ["interaction"] * 3


def test_the_same_file_is_not_imported_twice_unless_asked(data_dir: Path, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {**EVENT, "id": "e", "item": "i"})
    words = ("import", "events", str(path), "--data-dir", str(data_dir))
    assert run(*words)["accepted"] == 1
    with pytest.raises(InvalidInput, match="was imported into"):
        run(*words)
    assert run(*words, "--again")["duplicates"] == 1
    assert (
        run("import", "events", str(jsonl(path, {**EVENT, "id": "f", "item": "i"})), *words[3:])["accepted"]
        == 1
    )


def test_reading_is_fast_enough(tmp_path: Path) -> None:
    """60,000 rows a second with the log; here reading and encoding alone, with room to spare for a busy
    machine.
    """
    import lzma

    path = tmp_path / "part.csv"
    with lzma.open(sample_file(), "rt", newline="") as source, path.open("w", newline="") as target:
        rows = csv.reader(source)
        csv.writer(target, lineterminator="\n").writerows(
            row for row, _ in zip(rows, range(60_001), strict=False)
        )
    started = time.perf_counter()
    found = read(path)
    count = sum(1 for event in found.events() if event_record(event, imported=True).id_hash)
    assert count > 60_000
    assert time.perf_counter() - started < 3
