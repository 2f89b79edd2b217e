"""Dashboard and alert rules ask only for what a real ranker tells, every alert has its section in the runbook, and a
real Prometheus answers every query.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.testkit import ManualClock, ReplService
from tests.conftest import free_port, unavailable
from tests.house.promql import labels_selected, metric_names
from tests.house.test_tree import anchors
from tests.trainer.test_status import follow, learning

OF_PROMETHEUS = {"up"}
BY_PROMETHEUS = {"instance", "job"}
QUIET = {"repl_gate_holds_total", "repl_neighbour_failures_total", "repl_stale_answers_total"}
"""Series that appear with what they count: nothing failed, was held or stale here."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplService]:
    """A ranker that ranked, took events, good and bad, and follows a trainer."""
    made = ReplService(tmp_path_factory.mktemp("shop"), ManualClock())
    names = [f"i{k}" for k in range(40)]
    made.events(*(made.item(name, title=f"red lamp {name}", price=3.5) for name in names))
    with learning(made) as trainer:
        made.settle()
        for user in range(30):
            answer = made.rank(names, user=f"u{user}", query="lamp" if user % 2 else None)
            shown = [{"id": item} for item in answer["ids"]]
            made.events({"id": answer["request_id"], "event": "ranking", "user": f"u{user}", "items": shown})
            made.events({**made.click(f"u{user}", answer["ids"][user % 3]), "ranking": answer["request_id"]})
        made.retrieve(user="u1")
        made.call("POST", "/v1/events", {"event": "nonsense"})
        made.call("POST", "/v1/rank", {"items": []})
        made.settle()
        for _ in range(45):
            follow(made, trainer)
        yield made
    made.stop()


@pytest.fixture(scope="module")
def told(shop: ReplService) -> dict[str, set[str]]:
    """Every name of /metrics with the labels that its samples carry."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(shop.call("GET", "/metrics")[1]):
        names = {family.name} if family.type != "counter" else {f"{family.name}_total"}
        if family.type == "histogram":
            names = {f"{family.name}{end}" for end in ("_bucket", "_sum", "_count")}
        found |= {name: set() for name in names if name not in found}
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


def filled_in(expression: str) -> str:
    """A query of the dashboard with its variables as Grafana fills them in."""
    series = re.fullmatch(r"label_values\((\w+), (\w+)\)", expression)
    if series:
        return series[1]
    return expression.replace("$instance", ".*").replace("$__rate_interval", "10s")


def boards(root: Path) -> dict[str, dict[str, Any]]:
    paths = sorted((root / "deploy/grafana/dashboards").glob("*.json"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def dashboard_queries(root: Path) -> list[str]:
    found = []
    for board in boards(root).values():
        found += [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
        found += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
        found += [one["expr"] for one in board["annotations"]["list"]]
    return [filled_in(one) for one in found]


def rules(root: Path) -> list[dict[str, Any]]:
    text = (root / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_the_parser_of_queries_finds_names_and_labels() -> None:
    text = 'sum by (le, a) (rate(x_bucket{b="y{",c!~"z"}[5m])) / on (d) group_left sum(w_total) > 1e3 or absent(v)'
    text += " and ln(u) > 0"
    assert metric_names(text) == {"x_bucket", "w_total", "v", "u"}
    assert labels_selected(text) == {("x_bucket", "b"), ("x_bucket", "c")}
    assert metric_names("up == 0") == {"up"}


def test_dashboard_and_rules_ask_only_for_what_there_is(root: Path, told: dict[str, set[str]]) -> None:
    queries = dashboard_queries(root) + [rule["expr"] for rule in rules(root)]
    assert len(queries) > 70
    asked = set().union(*map(metric_names, queries))
    assert asked - told.keys() - OF_PROMETHEUS == set()
    labels = {pair for query in queries for pair in labels_selected(query) if pair[1] not in BY_PROMETHEUS}
    wrong = {(name, label) for name, label in labels if told[name] and label not in told[name]}
    assert wrong == set()


def test_everything_that_a_ranker_tells_is_documented(root: Path, told: dict[str, set[str]]) -> None:
    text = (root / "docs/operations.md").read_text(encoding="utf-8")
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told if name.startswith("repl_")}
    assert {name for name in ours if f"`{name}" not in text} == set()
    documented = set(re.findall(r"^\| `(repl_\w+)", text, re.MULTILINE))
    assert documented - ours == set()


def test_every_alert_has_its_section_in_the_runbook(root: Path) -> None:
    found = rules(root)
    names = [rule["alert"] for rule in found]
    assert len(set(names)) == len(names)
    for rule in found:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor == rule["alert"].lower(), rule["alert"]
        assert anchor in anchors(root / file), rule["alert"]
    sections = re.findall(r"^## +(\w+)$", (root / "docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted(names), "no section without an alert"


def test_the_dashboard_stands_in_rows_without_overlap(root: Path) -> None:
    for name, board in boards(root).items():
        places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in board["panels"]]
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), name
        assert all(x + w <= 24 for x, _, w, _ in places), name
        for one, (x, y, w, h) in enumerate(places):
            for a, b, c, d in places[one + 1 :]:
                assert x + w <= a or a + c <= x or y + h <= b or b + d <= y, (name, (x, y), (a, b))
        assert all(panel.get("description") for panel in board["panels"] if panel["type"] != "row"), name


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        unavailable(f"{name} is not installed; on Debian: apt-get install -y prometheus (deploy/system.sh)")
    return found


def test_promtool_accepts_the_rules(root: Path) -> None:
    command = [tool("promtool"), "check", "rules", str(root / "deploy/prometheus/alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def ask(port: int, path: str, **parameters: str) -> dict[str, Any]:
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{query}", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    assert found["status"] == "success", found
    return found["data"]


@pytest.fixture
def prometheus(root: Path, shop: ReplService, tmp_path: Path) -> Iterator[int]:
    """The port of a real Prometheus that scrapes the shop and has read the rules."""
    config, port = tmp_path / "prometheus.yml", free_port()
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(root / "deploy/prometheus/alerts.yml")],
        "scrape_configs": [{"job_name": "ranker", "static_configs": [{"targets": [f"127.0.0.1:{shop.port}"]}]}],
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "output.txt").open("wb") as output:
        running = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 30
            while True:
                assert running.poll() is None, (tmp_path / "output.txt").read_text()
                assert time.monotonic() < deadline, (tmp_path / "output.txt").read_text()
                try:
                    found = ask(port, "query", query="count_over_time(repl_version[1m]) >= 3")["result"]
                except OSError:
                    found = []
                if found:
                    break
                time.sleep(0.2)
            yield port
        finally:
            running.terminate()
            running.wait(20)


def test_a_real_prometheus_answers_every_query(root: Path, shop: ReplService, prometheus: int) -> None:
    empty = set()
    for query in dashboard_queries(root):
        result = ask(prometheus, "query", query=query)["result"]
        if not result and not metric_names(query) & QUIET:
            empty.add(query)
    assert {one for one in empty if "changes(" not in one and 'status=~"5.."' not in one} == set()
    groups = ask(prometheus, "rules")["groups"]
    judged = [rule for group in groups for rule in group["rules"]]
    assert len(judged) == len(rules(root))
    assert [rule["name"] for rule in judged if rule["health"] == "err"] == []
    assert {rule["name"] for rule in judged if rule["state"] != "inactive"} <= {"RankerDown"} | {"EventsRejected"}
