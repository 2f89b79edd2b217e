"""docker-compose.yml: valid by the compose specification, hardened, true to settings and files, and read as meant.

There is no Docker engine where this is tested; `tests/e2e/test_stack.py` runs the same definition without containers.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.compose import OURS, ComposeError, Health, Service, fill, read, seconds
from deploy.local.places import Places
from deploy.local.ports import chosen, require_free
from deploy.local.programs import properties
from deploy.local.servers import ServerError
from service.settings import Settings
from tests.conftest import ROOT, unavailable
from tests.house.schemas import broken, vendored

FILE = ROOT / "docker-compose.yml"
WHOLE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = WHOLE["services"]
KEYS = {"REPL_ADMIN_KEY": "k"}
UNDERSTOOD = {
    "profiles", "image", "build", "user", "command", "environment", "expose", "ports", "healthcheck", "volumes",
    "tmpfs", "depends_on", "restart", "read_only", "cap_drop", "security_opt", "logging", "mem_limit",
    "stop_grace_period",
}  # fmt: skip
"""Of these deploy/local reads what says how a service runs; the rest is about containers."""


def test_it_is_valid_by_the_compose_specification() -> None:
    schema = vendored("compose-spec")
    assert broken(WHOLE, schema) == []
    wrong = WHOLE | {"services": SERVICES | {"redis": SERVICES["redis"] | {"memlimit": "1g"}}}
    assert any("memlimit" in line for line in broken(wrong, schema))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_and_bounded(name: str) -> None:
    entry = SERVICES[name]
    assert set(entry) <= UNDERSTOOD
    assert entry["read_only"] is True
    assert entry["cap_drop"] == ["ALL"]
    assert int(entry["user"].split(":")[0]) > 0, "not root"
    assert re.fullmatch(r"\d+[mg]", entry["mem_limit"])
    assert entry["logging"]["options"].keys() == {"max-size", "max-file"}
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", entry["image"]), "a pinned version"
    if entry["healthcheck"].get("disable"):
        conditions = [other.get("depends_on", {}).get(name, {}).get("condition") for other in SERVICES.values()]
        assert "service_completed_successfully" in conditions, "waited for by its end instead"
    else:
        assert entry["healthcheck"].keys() == {"test", "interval", "timeout", "retries", "start_period"}


@pytest.mark.parametrize("name", [name for name, entry in SERVICES.items() if entry["image"].startswith(OURS)])
def test_every_setting_of_ours_is_one_and_has_a_value_that_is_taken(name: str) -> None:
    given = fill(SERVICES[name]["environment"], KEYS)
    ours = {key.removeprefix("REPL_").lower(): text for key, text in given.items() if key.startswith("REPL_")}
    settings = Settings(**ours)
    assert set(ours) <= set(Settings.model_fields)
    writable = {place.split(":")[1] for place in SERVICES[name].get("volumes", [])}
    writable |= {place.split(":")[0] for place in SERVICES[name]["tmpfs"]}
    assert str(settings.data_dir) in writable


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for place in fill(SERVICES[name].get("volumes", []), KEYS):
        source = place.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert place.endswith(":ro"), "nobody writes into the source tree"
        else:
            assert source in WHOLE["volumes"]


def test_volumes_are_used_and_each_by_one_service() -> None:
    used = [place.split(":")[0] for entry in SERVICES.values() for place in entry.get("volumes", [])]
    named = [name for name in used if not name.startswith((".", "$"))]
    assert sorted(named) == sorted(WHOLE["volumes"])


def test_nothing_is_published_beyond_this_machine_and_no_secret_is_in_it() -> None:
    published = [port for entry in SERVICES.values() for port in entry.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    words = re.compile(r"(KEY|PASSWORD|SECRET|TOKEN)$")
    pairs = [pair for entry in SERVICES.values() for pair in entry.get("environment", {}).items()]
    named = {key: text for key, text in pairs if words.search(key)}
    assert set(named) == {"REPL_ADMIN_KEY"}
    assert all(text.startswith("${") for text in named.values())


def test_versions_agree_with_those_elsewhere() -> None:
    pom = (ROOT / "deploy/local/kafka/pom.xml").read_text()
    assert f"<version>{SERVICES['kafka']['image'].partition(':')[2]}</version>" in pom
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ours = {entry["image"] for entry in SERVICES.values() if entry["image"].startswith(OURS)}
    assert ours == {f"repl-ranker/ranker:{version}", f"repl-ranker/trainer:{version}"}
    built = [entry["image"] for entry in SERVICES.values() if "build" in entry]
    assert sorted(built) == sorted(ours), "each is built once"


def test_minimal_leaves_out_prometheus_and_grafana() -> None:
    minimal, full = read(FILE, KEYS, "minimal"), read(FILE, KEYS, "full")
    assert set(full) - set(minimal) == {"prometheus", "grafana"}
    assert set(SERVICES) - set(full) == {"states"}
    assert SERVICES["states"]["profiles"] == ["states"]
    assert set(SERVICES["states"]["depends_on"]) <= set(minimal)
    order = list(full)
    assert all(order.index(need) < order.index(name) for name, service in full.items() for need in service.needs)


def test_what_prometheus_and_grafana_call_is_there() -> None:
    full = read(FILE, KEYS, "full")
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {address for job in scraped for part in job["static_configs"] for address in part["targets"]}
    addresses = {f"{name}:{port}" for name, service in full.items() for port in service.ports}
    assert {target for target in targets if not target.startswith("127.")} <= addresses
    assert {"ranker-1:8080", "ranker-2:8080", "proxy:8404"} <= targets
    provisioning = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"].removeprefix("http://") in addresses
    [provider] = yaml.safe_load((provisioning / "dashboards/files.yml").read_text())["providers"]
    assert full["grafana"].mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"


def test_the_proxys_file_is_one_that_haproxy_takes() -> None:
    if shutil.which("haproxy") is None:
        unavailable("haproxy is not installed: apt-get install -y haproxy")
    here = {"LISTEN": "127.0.0.1:1", "STATS": "127.0.0.1:2", "RANKER_1": "127.0.0.1:3", "RANKER_2": "127.0.0.1:4"}
    assert set(here) == set(SERVICES["proxy"]["environment"])
    command = ["haproxy", "-c", "-f", str(ROOT / "deploy/proxy/haproxy.cfg")]
    done = subprocess.run(command, env={**os.environ, **here}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[ALERT]" not in done.stderr


def test_addresses_ports_and_paths_become_those_of_this_machine(tmp_path: Path) -> None:
    services = read(FILE, KEYS, "minimal")
    ports = {name: {port: 20_000 + port for port in service.ports} for name, service in services.items()}
    places = Places(ROOT, tmp_path, ports)
    kafka = places.environment(services["kafka"])
    assert kafka["KAFKA_LISTENERS"].startswith("PLAINTEXT://127.0.0.1:29092,CONTROLLER://127.0.0.1:29093,")
    assert kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@127.0.0.1:29093"
    assert properties(kafka)["log.dirs"] == str(tmp_path / "kafka")
    ranker = places.environment(services["ranker-2"])
    assert ranker["REPL_LOG_URL"] == "kafka://127.0.0.1:29092/repl"
    assert ranker["REPL_WEIGHTS_URL"] == "redis://127.0.0.1:26379/0"
    assert (ranker["REPL_HOST"], ranker["REPL_PORT"]) == ("127.0.0.1", "28080")
    assert (ranker["REPL_DATA_DIR"], ranker["REPL_BASE_DIR"]) == (
        str(tmp_path / "ranker-2"),
        str(ROOT / "deploy/sample/base"),
    )
    redis = places.arguments(services["redis"], services["redis"].command)
    assert redis[1:5] == ("--bind", "127.0.0.1", "--port", "26379")
    every = [text for name in services for text in places.environment(services[name]).values()]
    assert not [text for text in every if "0.0.0.0" in text or re.search(r"(kafka|redis|ranker-\d):\d", text)]


def test_one_pass_changes_an_address_once(tmp_path: Path) -> None:
    both = Service("a", "x:1.0.0", True, (), {}, (80, 81), {}, {}, Health((), 1, 1), 1)
    places = Places(ROOT, tmp_path, {"a": {80: 81, 81: 82}})
    assert places.value(both, "a:80 a:81 b:80 0.0.0.0:80") == "127.0.0.1:81 127.0.0.1:82 b:80 127.0.0.1:81"


@pytest.mark.parametrize(
    ("text", "filled"),
    [("${A:-b}", "b"), ("${B:-b}", "given"), ("x$${A}$$", "x${A}$"), ("${A}", ""), ("${B:?say}", "given")],
)
def test_variables_are_filled_in(text: str, filled: str) -> None:
    assert fill({"k": [text]}, {"B": "given"}) == {"k": [filled]}


def test_variables_of_the_file_are_no_settings_that_the_programs_would_refuse() -> None:
    """Who exports one for compose runs `repl-ranker` in the same shell: an unknown REPL_ variable is an error there."""
    named = set(re.findall(r"\$\{(REPL_\w+)", FILE.read_text()))
    assert {name.removeprefix("REPL_").lower() for name in named} <= set(Settings.model_fields)


def test_ports_are_counted_up_kept_and_added_to(tmp_path: Path) -> None:
    services = read(FILE, KEYS, "minimal")
    file = tmp_path / "ports.json"
    first = chosen(file, list(services.values())[:2], 9_000)
    assert [port for ports in first.values() for port in ports.values()] == list(range(9_000, 9_004))
    again = chosen(file, services.values(), 7_000)
    assert again.items() >= first.items()
    every = [port for ports in again.values() for port in ports.values()]
    assert len(set(every)) == len(every)
    assert min(every) == 9_000
    alone = chosen(tmp_path / "other.json", services.values(), 8_180)
    assert alone["proxy"][8_080] == 8_180
    free = chosen(tmp_path / "free.json", services.values(), 0)
    assert all(20_000 <= port < 32_000 for ports in free.values() for port in ports.values())


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=rf"redis: port {port} is taken by another program.*STACK_PORT"):
            require_free("redis", {"redis": {6379: port}}, tmp_path / "ports.json")


def test_a_required_variable_that_is_missing_is_named() -> None:
    with pytest.raises(ComposeError, match="REPL_ADMIN_KEY is not set: set it to a long random word"):
        read(FILE, {}, "minimal")


def test_durations() -> None:
    assert [seconds(text) for text in ("5s", "1m30s", "200ms")] == [5, 90, 0.2]
    with pytest.raises(ComposeError, match="not a duration: '5'"):
        seconds("5")


def test_kafkas_properties_are_named_as_its_image_names_them() -> None:
    given = {"KAFKA_NODE_ID": "1", "KAFKA_A__B___C": "x"}
    left_out = {"KAFKA_HEAP_OPTS": "-Xmx1g", "CLUSTER_ID": "c", "KAFKA_OPTS": ""}
    assert properties(given | left_out) == {"node.id": "1", "a_b-c": "x"}
