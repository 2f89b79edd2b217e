"""What may stand in a tracked file, and what the pinned requirements, Makefile and documents must hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

TEXT = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".sh",
    ".yml",
    ".yaml",
    ".json",
    ".js",
    ".css",
    ".html",
    ".in",
    ".cfg",
    "",
}
HOSTS = ["pypi" + ".org", "pythonhosted" + ".org", "artifact" + "ory", "pkg" + ".dev", "nexus" + "."]
PATHS = ["/" + "work/", "/" + "root/", "/" + "home/", "/" + "opt/", "/" + "tmp/"]
SECRETS = [
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{30,}",
    r"\bxox[abp]-[A-Za-z0-9-]{10,}",
]
IN_AN_IMAGE = "/" + "opt/kafka/"  # a path inside apache/kafka's image, no machine's
CREDENTIALS = r"://[^/\s:@]+:[^/\s@]+@"
TARGETS = ["help", "setup", "run", "train", "test", "test-long", "lint", "bench", "clean", "requirements"]
TARGETS += ["stack", "stop"]


@pytest.fixture(scope="module")
def tracked(root: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing is tracked")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [root / name for name in names if (root / name).is_file()]


def lines(paths: list[Path], skip: tuple[str, ...] = ()) -> list[tuple[str, int, str]]:
    return [
        (path.name, number, line)
        for path in paths
        if path.suffix in TEXT and path.name not in skip
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    ]


def test_no_registry_host_stands_in_a_tracked_file(tracked: list[Path]) -> None:
    found = [(name, number) for name, number, line in lines(tracked) if any(host in line for host in HOSTS)]
    assert found == []


def test_no_path_of_a_machine_stands_in_a_tracked_file(tracked: list[Path]) -> None:
    wrong = re.compile("|".join(rf"(?<![\w.]){re.escape(path)}" for path in PATHS))
    every = [(name, number, line.replace(IN_AN_IMAGE, "")) for name, number, line in lines(tracked)]
    found = [hit for hit in every if wrong.search(hit[2])]
    assert found == []


def test_no_secret_stands_in_a_tracked_file(tracked: list[Path], root: Path) -> None:
    anywhere, outside_tests = re.compile("|".join(SECRETS)), re.compile(CREDENTIALS)
    product = [
        path for path in tracked if path.relative_to(root).parts[0] != "tests"
    ]  # tests send odd addresses
    found = [hit[:2] for hit in lines(tracked, ("test_tree.py",)) if anywhere.search(hit[2])]
    found += [hit[:2] for hit in lines(product) if outside_tests.search(hit[2])]
    assert found == []


def test_tracked_files_are_small_and_made_by_hand_or_named(tracked: list[Path], root: Path) -> None:
    large = [str(path.relative_to(root)) for path in tracked if path.stat().st_size > 1 << 20]
    assert all(name.startswith("deploy/sample/") for name in large), large
    assert sum(path.stat().st_size for path in tracked) < 20 << 20


@pytest.mark.parametrize("name", ["serve", "train", "torch", "dev", "tools", "build"])
def test_every_requirement_is_pinned_and_hashed(root: Path, name: str) -> None:
    text = (root / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert packages
    for entry in packages:
        assert re.match(r"[a-zA-Z0-9._-]+(\[[^]]*\])?==[^ ]+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in text


def pins(root: Path, name: str) -> set[str]:
    text = (root / "requirements" / f"{name}.txt").read_text()
    return set(re.findall(r"^([a-z0-9._-]+==[^ ;\\]+)", text, re.MULTILINE))


def test_one_version_of_a_package_stands_in_all_levels(root: Path) -> None:
    assert pins(root, "serve") <= pins(root, "train") <= pins(root, "dev")
    assert not any(pin.startswith("torch==") for name in ("serve", "train", "dev") for pin in pins(root, name))
    assert any(pin.startswith("torch==") for pin in pins(root, "torch"))


def declared(root: Path) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return {re.match(r"[A-Za-z0-9._-]+", line).group().lower() for group in groups for line in group}  # type: ignore[union-attr]


def test_every_declared_dependency_is_pinned_and_documented(root: Path) -> None:
    pinned = {pin.partition("==")[0] for pin in pins(root, "dev") | pins(root, "torch")}
    documented = (root / "docs/dependencies.md").read_text().lower()
    names = declared(root)
    assert {name for name in names if name.replace("_", "-") not in pinned} == set()
    assert {name for name in names if f"`{name}`" not in documented} == set()


def test_dependencies_md_names_nothing_that_is_gone(root: Path) -> None:
    named = re.findall(
        r"^\| `([a-z0-9._-]+)`", (root / "docs/dependencies.md").read_text().lower(), re.MULTILINE
    )
    extra = {"uv", "hatchling", "editables", "chromium", "redis-server", "haproxy", "helm-java"}
    extra |= {"prometheus"}
    assert set(named) - declared(root) - extra == set()


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_are_there(root: Path, target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", target], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_in_documents_resolve(tracked: list[Path], root: Path) -> None:
    broken = []
    for path in (path for path in tracked if path.suffix == ".md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            aim = (path.parent / file).resolve() if file else path
            if not aim.exists() or (anchor and aim.suffix == ".md" and anchor not in anchors(aim)):
                broken.append(f"{path.relative_to(root)}: {target}")
    assert broken == []


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    heads = re.findall(r"^#+ +(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
