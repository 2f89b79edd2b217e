"""deploy/setup.sh where it must not install: what it says when Python is missing, and that a second call is
instant.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = ["deploy", "pyproject.toml", "requirements"]


@pytest.fixture
def tree(tmp_path: Path, root: Path) -> Path:
    """A copy of what setup.sh reads, without a .venv."""
    for name in NEEDED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("sample"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def setup(tree: Path, *levels: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "deploy/setup.sh", *levels]
    return subprocess.run(
        command,
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_an_old_python_is_refused_with_one_line_to_copy(tree: Path) -> None:
    old = script(tree / "bin/python3.9", "exit 1")
    done = setup(tree, "serve", PYTHON=str(old))
    assert done.returncode == 2
    assert "no Python 3.11 or newer" in done.stderr
    assert sum("apt-get install" in line for line in done.stderr.splitlines()) == 1


def test_a_python_without_venv_names_its_package(tree: Path) -> None:
    code = 'case "$2" in *ensurepip*) exit 1;; *version_info?:2*) echo 3.12;; esac; exit 0'
    done = setup(tree, "serve", PYTHON=str(script(tree / "bin/python3.12", code)))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "apt-get install" in line]
    assert len(lines) == 1
    assert lines[0].endswith("apt-get install -y python3.12-venv")


def test_an_unknown_level_is_refused(tree: Path) -> None:
    assert setup(tree, "everything").returncode == 2


@pytest.mark.parametrize(
    ("stamp", "wanted", "instant"),
    [("serve", "serve", True), ("dev", "serve", True), ("serve", "dev", False)],
)
def test_a_second_call_installs_nothing(tree: Path, stamp: str, wanted: str, instant: bool) -> None:
    script(tree / ".venv/bin/python", "exit 7")
    script(tree / ".venv/bin/repl-ranker", "exit 0")
    names = [
        "pyproject.toml",
        "requirements/tools.txt",
        "requirements/build.txt",
        f"requirements/{stamp}.txt",
        *([] if stamp == "serve" else ["requirements/torch.txt"]),
    ]
    digest = hashlib.sha256(b"".join((tree / name).read_bytes() for name in names)).hexdigest()[:16]
    (tree / f".venv/.installed-{stamp}").write_text(digest + "\n")
    done = setup(tree, wanted, PYTHON=str(tree / "no-such-python"))
    assert (done.returncode == 0) is instant
    assert (done.stdout + done.stderr == "") is instant


def test_a_changed_requirement_is_noticed(tree: Path) -> None:
    script(tree / ".venv/bin/python", "exit 7")
    script(tree / ".venv/bin/repl-ranker", "exit 0")
    (tree / ".venv/.installed-serve").write_text("0123456789abcdef\n")
    assert setup(tree, "serve", PYTHON=str(tree / "no-such-python")).returncode == 2


@pytest.mark.long
def test_where_there_is_no_uv_pip_installs_with_the_same_hashes(tree: Path, root: Path) -> None:
    """The real pip on this project without its dependencies; the build tools come from a registry."""
    for name in ("README.md", "LICENSE", "THIRD_PARTY.md", "features", "service", "trainer"):
        (tree / name).symlink_to(root / name)
    (tree / "requirements/tools.txt").write_text(f"uv==0.0.0 --hash=sha256:{'0' * 64}\n")
    (tree / "requirements/serve.txt").write_text(f"# nothing{os.linesep}")
    done = setup(tree, "serve", PYTHON=sys.executable)
    assert "going on with pip" in done.stdout
    assert (tree / ".venv/bin/repl-ranker").exists(), done.stderr
    installed = subprocess.run([tree / ".venv/bin/python", "-m", "pip", "list"], capture_output=True, check=True)
    assert b"repl-ranker" in installed.stdout
    assert b"hatchling" not in installed.stdout  # what built it is gone
