"""Every alert fires on series that are as bad as it says and stays silent on healthy ones: promtool runs the rules."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house.test_monitoring import rules, tool

Series = dict[str, str]
"""A series' name with labels → promtool's notation of its values, one a 15 s."""



def histogram(name: str, labels: str, fast: str, slow: str, bound: str) -> Series:
    """Two buckets: how many were at most `bound`, and all."""
    more = f",{labels}" if labels else ""
    return {
        f'{name}_bucket{{instance="a",le="{bound}"{more}}}': fast,
        f'{name}_bucket{{instance="a",le="+Inf"{more}}}': slow,
    }


ALL, FEW, NONE = "0+10x200", "0+1x200", "0x200"


def one(name: str, value: str) -> Series:
    return {f'{name}{{instance="a"}}': f"{value}x200"}


CASES: dict[str, tuple[Series, Series]] = {
    "RankerDown": (one("up", "0"), one("up", "1")),
    "NoRanker": (one("up", "1"), one("repl_version", "7")),
    "ErrorAnswers": (
        {f'repl_http_answers_total{{instance="a",status="{status}"}}': n for status, n in ((200, ALL), (503, FEW))},
        {f'repl_http_answers_total{{instance="a",status="{status}"}}': n for status, n in ((200, ALL), (422, FEW))},
    ),
    "SlowRanking": (
        histogram("repl_request_seconds", 'route="/v1/rank"', FEW, ALL, "0.3"),
        {
            **histogram("repl_request_seconds", 'route="/v1/rank"', ALL, ALL, "0.03"),
            **histogram("repl_request_seconds", 'route="/v1/retrieve"', FEW, ALL, "0.3"),
        },
    ),
    "StaleAnswers": (
        {
            'repl_stale_answers_total{instance="a",reason="log"}': FEW,
            'repl_http_answers_total{instance="a",route="/v1/rank",status="200"}': ALL,
        },
        {
            'repl_stale_answers_total{instance="a",reason="token"}': "0+0.05x200",
            'repl_http_answers_total{instance="a",route="/v1/rank",status="200"}': ALL,
        },
    ),
    "NeighbourFails": (
        {'repl_neighbour_failures_total{instance="a",part="log"}': FEW},
        {'repl_neighbour_failures_total{instance="a",part="log"}': "3x200"},
    ),
    "UserStateStoreSlow": (
        histogram("repl_user_state_seconds", 'call="get"', FEW, ALL, "0.1"),
        histogram("repl_user_state_seconds", 'call="commit"', FEW, ALL, "0.1"),
    ),
    "ItemsNotEncoded": (one("repl_items_waiting", "5000"), one("repl_items_waiting", "10")),
    "ServedRecordsDropped": (
        {'repl_served_records_total{instance="a",outcome="dropped"}': FEW},
        {'repl_served_records_total{instance="a",outcome="written"}': ALL},
    ),
    "ServedRecordsThinned": (
        {'repl_log_removed_records_total{stream="served",why="thinned"}': FEW},
        {'repl_log_removed_records_total{stream="served",why="expired"}': ALL},
    ),
    "EventsRejected": (
        {'repl_events_total{outcome="rejected"}': FEW, 'repl_events_total{outcome="received"}': ALL},
        {'repl_events_total{outcome="rejected"}': "0+0.1x200", 'repl_events_total{outcome="received"}': ALL},
    ),
    "DeadLetters": (one("repl_dead_letters", "3+1"), one("repl_dead_letters", "3")),
    "UserStateBehind": (one("repl_user_state_behind", "50000"), one("repl_user_state_behind", "200")),
    "OwnClicksLate": (
        histogram("repl_event_to_served_seconds", 'state="user"', FEW, ALL, "2.0"),
        histogram("repl_event_to_served_seconds", 'state="counters"', FEW, ALL, "5.0"),
    ),
    "TrainerSilent": (one("repl_trainer_heartbeat_age_seconds", "40"), one("repl_trainer_heartbeat_age_seconds", "1")),
    "TrainerBehind": (one("repl_trainer_behind_seconds", "90"), one("repl_trainer_behind_seconds", "0.4")),
    "CountersOld": (
        {'repl_age_seconds{instance="a",state="counters"}': "100x200"},
        {
            'repl_age_seconds{instance="a",state="counters"}': "6x200",
            'repl_age_seconds{instance="a",state="user"}': "100x200",
        },
    ),
    "VersionsApart": (
        {'repl_version{instance="a"}': "1000x200", 'repl_version{instance="b"}': "1000+5x200"},
        {'repl_version{instance="a"}': "1000+5x200", 'repl_version{instance="b"}': "998+5x200"},
    ),
    "WeightsHeld": (one("repl_weights_held", "1"), one("repl_weights_held", "0")),
    "GateTripsAgain": (
        {'repl_gate_holds_total{reason="auc"}': "0+0.05x200"},
        {'repl_gate_holds_total{reason="auc"}': "0x10 1x190"},
    ),
    "CalibrationOff": (
        {'repl_calibration{weights="live"}': "1.5x200", 'repl_calibration{weights="frozen"}': "1.1x200"},
        {'repl_calibration{weights="live"}': "1.5x200", 'repl_calibration{weights="frozen"}': "1.9x200"},
    ),
    "LiveWorseThanFrozen": (
        {
            'repl_progressive_log_loss{weights="live",window="10m"}': "0.21x200",
            'repl_progressive_log_loss{weights="frozen",window="10m"}': "0.20x200",
            'repl_progressive_examples{window="10m"}': "5000x200",
        },
        {
            'repl_progressive_log_loss{weights="live",window="10m"}': "0.21x200",
            'repl_progressive_log_loss{weights="frozen",window="10m"}': "0.20x200",
            'repl_progressive_examples{window="10m"}': "90x200",
        },
    ),
    "BaseNotLoaded": (one("repl_bases_missing", "1"), one("repl_bases_missing", "0")),
    "BaseStuck": (
        {'repl_base_state{instance="a",state="catching up"}': "1x200"},
        {'repl_base_state{instance="a",state="alone"}': ALL, 'repl_base_state{instance="a",state="fetching"}': NONE},
    ),
    "BaseRefused": (one("repl_base_refused", "1"), one("repl_base_refused", "0")),
    "ReplayDiffers": (one("repl_trainer_differing_versions", "4"), one("repl_trainer_differing_versions", "0")),
}


def group(alert: str, series: Series, fires: bool) -> dict[str, Any]:
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if fires else []
    query = f'count by (alertname) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {
        "name": f"{alert} {'fires' if fires else 'is silent'}",
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": "40m", "exp_samples": expected}],
    }


def test_every_alert_has_a_case(root: Path) -> None:
    assert CASES.keys() == {rule["alert"] for rule in rules(root)}


def run(root: Path, place: Path, groups: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    path = place / "alerts_test.yml"
    found = {"rule_files": [str(root / "deploy/prometheus/alerts.yml")], "evaluation_interval": "15s", "tests": groups}
    path.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    return subprocess.run([tool("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False)


def test_alerts_fire_and_are_silent(root: Path, tmp_path: Path) -> None:
    groups = [group(alert, bad, True) for alert, (bad, _) in CASES.items()]
    groups += [group(alert, good, False) for alert, (_, good) in CASES.items()]
    done = run(root, tmp_path, groups)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ["ErrorAnswers", "CalibrationOff"])
def test_a_wrong_expectation_is_noticed(root: Path, tmp_path: Path, alert: str) -> None:
    """The test above can fail."""
    assert run(root, tmp_path, [group(alert, CASES[alert][1], True)]).returncode != 0
    assert run(root, tmp_path, [group(alert, CASES[alert][0], False)]).returncode != 0
