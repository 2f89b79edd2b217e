"""The examples of docs/clients.md run as they stand, but for the address, against a real ranker and a real broker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from features.event_log import make_kafka_topics, open_log
from features.event_parser import parse_event
from features.events import InteractionEvent, ItemEvent
from service.settings import Settings
from service.testkit import ManualClock, ReplService
from tests.conftest import unavailable


def blocks(root: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    text = (root / "docs/clients.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplService]:
    """A ranker for which one's own click is worth a lot, so that an example can tell that hers counted."""
    made = ReplService(tmp_path_factory.mktemp("shop"), ManualClock(time.time_ns() // 1_000_000))
    made.publish(click={"rt.own.click": 8.0})
    yield made
    made.stop()


def run(command: list[str], text: str, shop: ReplService, tmp_path: Path) -> list[str]:
    """The lines that an example prints; nothing on stderr, status 0."""
    assert "http://localhost:8080" in text
    path = tmp_path / "example"
    path.write_text(text.replace("http://localhost:8080", shop.url), encoding="utf-8")
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return [line for line in done.stdout.splitlines() if line]


def learned(shop: ReplService, user: str, item: str) -> None:
    """What the log has of an example: what was shown names our answer, and the click names both."""
    shop.settle()
    records = shop.service.log.read("event", 0)
    events = [parse_event(json.loads(record.body)) for record in records if user in record.key]
    kinds = {type(event).__name__: event for event in events}
    ranking, click = kinds["RankingEvent"], kinds["InteractionEvent"]
    assert (click.item, click.ranking) == (item, ranking.id)  # type: ignore[attr-defined]
    served = [record for record in shop.service.log.read("served", 0) if record.key == user]
    assert any(ranking.id.encode() in record.body for record in served), "the id is that of our answer"


def test_curl(root: Path, shop: ReplService, tmp_path: Path) -> None:
    for name in ("bash", "curl"):
        if shutil.which(name) is None:
            unavailable(f"{name} is not installed")
    (text,) = blocks(root, "bash")
    printed = "\n".join(run(["bash", "-eu"], text, shop, tmp_path))
    taken, ranked = re.findall(r"\{.*?\}(?=\{|$)", printed.replace("\n", ""))
    assert json.loads(taken)["accepted"] == 3
    assert json.loads(ranked)["ids"][0] == "mug-1"
    learned(shop, "anna", "mug-1")


def test_python(root: Path, shop: ReplService, tmp_path: Path) -> None:
    text = blocks(root, "python")[0]
    (order,) = run([sys.executable], text, shop, tmp_path)
    assert order.startswith("['bag-2'")
    learned(shop, "bert", "bag-2")


def test_python_has_an_order_of_its_own_when_nobody_answers(root: Path, tmp_path: Path) -> None:
    text = blocks(root, "python")[0].partition("titles = ")[0].replace("localhost:8080", "127.0.0.1:1")
    path = tmp_path / "example.py"
    path.write_text(text + 'print(ranked(["b", "a"], user="x"))\n', encoding="utf-8")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "(['b', 'a'], None)", done.stderr


def test_javascript(root: Path, shop: ReplService, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the JavaScript example was not run")
    (text,) = blocks(root, "javascript")
    (order,) = run([node], text, shop, tmp_path)
    assert json.loads(order)[0] == "lamp-3"
    learned(shop, "cleo", "lamp-3")


def test_an_ordinary_kafka_client(root: Path, kafka_url: str, tmp_path: Path, data_dir: Path) -> None:
    prefix = uuid.uuid4().hex
    settings = Settings(data_dir=data_dir, log_url=f"{kafka_url}/{prefix}?timeout_ms=8000")
    make_kafka_topics(settings, 3, 1)
    text = blocks(root, "python")[1].replace("localhost:9092", kafka_url.removeprefix("kafka://"))
    path = tmp_path / "example.py"
    path.write_text(text.replace("shop.events", f"{prefix}.events"), encoding="utf-8")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with closing(open_log(settings)) as log:
        records = [record for partition in range(3) for record in log.read("event", 0, partition=partition)]
    assert sorted(record.kind for record in records) == ["interaction", "item"]
    found = {type(event): event for event in (parse_event(json.loads(record.body)) for record in records)}
    click, item = found[InteractionEvent], found[ItemEvent]
    assert isinstance(click, InteractionEvent)
    assert isinstance(item, ItemEvent)
    assert (click.user, click.item, item.item) == ("dora", "lamp-4", "lamp-4")
    assert {record.key for record in records} == {"dora", "lamp-4"}
