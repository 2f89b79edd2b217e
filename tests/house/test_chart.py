"""The Helm chart: rendered by Helm's own code, every object checked against Kubernetes' schemas and against the rest
of the house. No cluster is here: nothing was installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.k8s.helm import library
from deploy.local.servers import ServerError
from service.settings import Settings
from tests.conftest import ROOT, unavailable
from tests.house.schemas import broken

CHART = ROOT / "deploy/k8s/repl-ranker"
LEAST = CHART / "ci-values.yaml"
VERSIONS = ("1.27", "1.31", "1.37")
EVERYTHING: dict[str, Any] = {
    "logUser": "shop",
    "secrets": {"name": "keys", "logPassword": "log-password"},
    "settings": {"hold_ms": 1000, "infer_shown": True, "control_share": 0.05, "log_max_bytes": 8_589_934_592},
    "image": {"pullSecrets": [{"name": "registry"}]},
    "base": {"existingClaim": "bases"},
    "ranker": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]},
    "trainer": {"storage": {"className": "fast"}, "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
    "states": {"replicas": 3, "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
    },
    "nightly": {"enabled": True, "claim": "nightly-bases", "archive": "s3://bucket/shop", "percent": 2.5},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
LITTLE = {
    "ranker": {"autoscaling": {"enabled": False}, "replicas": 1},
    "trainer": {"standby": {"enabled": False}},
    "topics": {"enabled": False},
    "networkPolicy": {"enabled": False},
}


@pytest.fixture(scope="module", autouse=True)
def _helm() -> None:
    try:
        library()
    except ServerError as error:
        unavailable(str(error))


def helm(what: str, chart: Path, *values: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Go's signal handlers have no place in pytest's."""
    command = [sys.executable, "-m", "deploy.k8s.helm", what, str(chart), *map(str, values)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart without hook annotations: `helm template` as a library leaves hooks out, and the Job is one."""
    copy = tmp_path_factory.mktemp("chart") / "repl-ranker"
    shutil.copytree(CHART, copy)
    for file in (copy / "templates").glob("*.yaml"):
        file.write_text(re.sub(r"(?m)^ *(annotations:|helm\.sh/hook.*)\n", "", file.read_text()))
    return copy


def rendered(chart: Path, place: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    more = place / "values.yaml"
    more.write_text(yaml.safe_dump(values))
    done = helm("template", chart, LEAST, more)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module", params=["least", "everything", "little"])
def objects(
    request: pytest.FixtureRequest, chart: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    values = {"least": {}, "everything": EVERYTHING, "little": LITTLE}[request.param]
    return rendered(chart, tmp_path_factory.mktemp("values"), values)


@pytest.fixture(scope="module")
def everything(chart: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    found = rendered(chart, tmp_path_factory.mktemp("values"), EVERYTHING)
    return {(one["kind"], one["metadata"]["name"].removeprefix("shop-repl-ranker")): one for one in found}


def template(one: dict[str, Any]) -> dict[str, Any] | None:
    """The template of what an object's pods are made from; of a CronJob that of its job."""
    found: dict[str, Any] | None = one.get("spec", {}).get("jobTemplate", one).get("spec", {}).get("template")
    return found


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [made["spec"] for made in map(template, objects) if made is not None]


def containers(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for pod in pods(objects) for one in pod.get("initContainers", []) + pod["containers"]]


def test_helm_lints_it() -> None:
    done = helm("lint", CHART)
    assert done.returncode == 0, done.stderr
    assert "Failed: false" in done.stdout


def test_every_object_is_valid_by_kubernetes_own_schemas(objects: list[dict[str, Any]]) -> None:
    schema = json.loads((ROOT / "tests/house/servicemonitor.schema.json").read_text())
    for one in objects:
        if one["kind"] == "ServiceMonitor":
            assert broken(one, schema) == []
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_would_see_a_mistake(objects: list[dict[str, Any]]) -> None:
    one = next(one for one in objects if one["kind"] == "Deployment")
    wrong = one | {"spec": one["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_container_is_hardened_and_bounded(objects: list[dict[str, Any]]) -> None:
    assert pods(objects)
    for pod in pods(objects):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)
    for one in containers(objects):
        security = one["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["limits"]["memory"]
        assert one["image"].endswith(":0.1.0")


def test_settings_are_ours_and_secrets_come_by_reference(objects: list[dict[str, Any]]) -> None:
    assert not [one for one in objects if one["kind"] == "Secret"]
    for one in containers(objects):
        given = {entry["name"]: entry for entry in one.get("env", [])}
        ours = {name.removeprefix("REPL_").lower(): entry for name, entry in given.items() if name.startswith("REPL_")}
        assert set(ours) <= set(Settings.model_fields)
        secret = {"admin_key", "weights_url", "user_states_url", "log_password"} & set(ours)
        assert all("secretKeyRef" in ours[name]["valueFrom"] for name in secret)
        Settings(**{name: entry["value"] for name, entry in ours.items() if name not in secret})


def test_volumes_and_mounts_agree(objects: list[dict[str, Any]]) -> None:
    for one in objects:
        for pod in pods([one]):
            claims = [claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])]
            there = {volume["name"] for volume in pod["volumes"]} | set(claims)
            mounted = {mount["name"] for part in containers([one]) for mount in part["volumeMounts"]}
            assert mounted == there


def test_selectors_meet_their_pods(everything: dict[tuple[str, str], dict[str, Any]]) -> None:
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in everything.items()
              if "template" in one["spec"]}  # fmt: skip
    ranker, trainer = labels["Deployment", "-ranker"], labels["StatefulSet", "-trainer"]

    def chosen(selector: dict[str, str]) -> list[bool]:
        return [selector.items() <= pod.items() for pod in (ranker, trainer)]

    assert chosen(everything["Service", ""]["spec"]["selector"]) == [True, False]
    assert chosen(everything["Service", "-trainer"]["spec"]["selector"]) == [False, True]
    assert chosen(everything["PodDisruptionBudget", "-ranker"]["spec"]["selector"]["matchLabels"]) == [True, False]
    assert chosen(everything["NetworkPolicy", ""]["spec"]["podSelector"]["matchLabels"]) == [True, True]
    assert chosen(everything["NetworkPolicy", "-ranker"]["spec"]["podSelector"]["matchLabels"]) == [True, False]
    monitored = everything["ServiceMonitor", ""]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= everything["Service", ""]["metadata"]["labels"].items()
    assert not monitored.items() <= everything["Service", "-trainer"]["metadata"]["labels"].items()
    target = everything["HorizontalPodAutoscaler", "-ranker"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "shop-repl-ranker-ranker")
    assert everything["StatefulSet", "-trainer"]["spec"]["serviceName"] == "shop-repl-ranker-trainer"


def test_what_the_values_say_is_what_runs(everything: dict[tuple[str, str], dict[str, Any]]) -> None:
    trainer = everything["StatefulSet", "-trainer"]["spec"]
    command = trainer["template"]["spec"]["containers"][0]["command"]
    assert trainer["replicas"] == 2
    assert command == ["repl-ranker", "learn", "--standby"]
    assert "replicas" not in everything["Deployment", "-ranker"]["spec"], "the autoscaler's"
    env = everything["Deployment", "-ranker"]["spec"]["template"]["spec"]["containers"][0]["env"]
    values = {entry["name"]: entry.get("value") for entry in env}
    wanted = {f"REPL_{name.upper()}": json.dumps(value) for name, value in EVERYTHING["settings"].items()}
    assert wanted.items() <= values.items()
    states = everything["Deployment", "-states"]["spec"]
    assert (states["replicas"], values["REPL_USER_STATES"]) == (3, "beside")
    assert states["template"]["spec"]["containers"][0]["command"] == ["repl-ranker", "states"]
    peers = everything["NetworkPolicy", "-ranker"]["spec"]["ingress"][0]["from"]
    assert [list(peer) for peer in peers] == [["namespaceSelector"], ["namespaceSelector"]]


def test_the_nightly_job_rolls_out_what_everybody_can_read(everything: dict[tuple[str, str], dict[str, Any]]) -> None:
    made = everything["CronJob", "-nightly"]["spec"]
    assert made["concurrencyPolicy"] == "Forbid"
    pod = made["jobTemplate"]["spec"]["template"]["spec"]
    one = pod["containers"][0]
    assert one["command"] == ["sh", "-c", (CHART / "nightly.sh").read_text(), "nightly"]
    given = {entry["name"]: entry.get("value") for entry in one["env"]}
    assert (given["OUT"], given["ARCHIVE"], given["PERCENT"]) == ("/bases", "s3://bucket/shop", "2.5")
    chosen = everything["NetworkPolicy", "-nightly"]["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= made["jobTemplate"]["spec"]["template"]["metadata"]["labels"].items()
    claim = {"claimName": "nightly-bases"}
    assert next(v for v in pod["volumes"] if v["name"] == "bases")["persistentVolumeClaim"] == claim
    for kind, name in (("Deployment", "-ranker"), ("StatefulSet", "-trainer")):
        reader = everything[kind, name]["spec"]["template"]["spec"]
        volume = next(v for v in reader["volumes"] if v["name"] == "bases")
        assert volume["persistentVolumeClaim"] == {**claim, "readOnly": True}
        assert {"name": "bases", "mountPath": "/bases", "readOnly": True} in reader["containers"][0]["volumeMounts"]


def test_the_topics_job_is_a_hook(everything: dict[tuple[str, str], dict[str, Any]]) -> None:
    job = everything["Job", "-topics"]["spec"]["template"]["spec"]["containers"][0]
    assert job["command"] == ["repl-ranker", "topics", "--partitions", "6", "--replication", "3"]
    assert "helm.sh/hook: pre-install,pre-upgrade" in (CHART / "templates/topics.yaml").read_text()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"logUrl": ""}, "logUrl is not set"),
        ({"secrets": {"name": ""}}, "secrets.name is not set"),
        ({"logUrl": "kafka://user:word@host/x"}, "logUrl"),
        ({"settings": {"weights_url": "redis://x"}}, "settings"),
        ({"ranker": {"replica": 3}}, "replica"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"nightly": {"enabled": True}}, "nightly.claim is not set"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    more = tmp_path / "values.yaml"
    more.write_text(yaml.safe_dump(values))
    done = helm("template", CHART, LEAST, more)
    assert done.returncode == 1
    assert said in done.stderr
