"""`features` ← `service` ← `trainer`, kept by reading every import, also those inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ALLOWED = {
    "features": {"features"},
    "service": {"features", "service"},
    "trainer": {"features", "service", "trainer"},
}
OURS = {"features", "service", "trainer", "tests", "deploy"}
TORCH = {"torch", "onnx", "matplotlib"}  # of the train extra
MAY_TORCH = {"network", "losses", "examples", "offline", "onnx_export", "report", "fitting", "batches", "untrained"}


def modules(root: Path) -> list[Path]:
    return sorted(path for room in ALLOWED for path in (root / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First parts of every absolute import; the house has no relative ones."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def test_nobody_imports_upwards(root: Path) -> None:
    wrong = {
        str(path.relative_to(root)): sorted(names)
        for path in modules(root)
        if (names := (imported(path) & OURS) - ALLOWED[path.relative_to(root).parts[0]])
    }
    assert wrong == {}


def test_torch_is_imported_where_training_is_and_nowhere_else(root: Path) -> None:
    wrong = [
        str(path.relative_to(root))
        for path in modules(root)
        if imported(path) & TORCH and not (path.parent.name == "trainer" and path.stem in MAY_TORCH)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        ("redis", ["features/redis_client.py", "features/redis_primary.py"]),
        ("kafka", ["features/event_log_kafka.py"]),
        ("fsspec", ["features/event_log_archive_place.py"]),
        ("pyarrow", ["features/event_log_archive_parquet.py"]),
    ],
)
def test_few_modules_import_a_networked_client_and_nothing_loads_it_unasked(
    root: Path, client: str, wanted: list[str]
) -> None:
    assert [str(path.relative_to(root)) for path in modules(root) if client in imported(path)] == wanted
    assert client not in loaded_after("import service.app, service.engine, trainer.online, trainer.verify", root)


@pytest.mark.parametrize("room", ["features", "service", "trainer"])
def test_every_init_is_a_docstring(root: Path, room: str) -> None:
    for path in (root / room).rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, f"{path} holds more than a docstring"
        assert isinstance(body[0], ast.Expr), path
        assert isinstance(body[0].value, ast.Constant), path


def test_every_module_says_what_it_is(root: Path) -> None:
    silent = [
        str(path) for path in modules(root) if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_every_package_directory_is_a_package(root: Path) -> None:
    missing = {str(path.parent) for path in modules(root) if not (path.parent / "__init__.py").exists()}
    assert missing == set()


def loaded_after(statement: str, root: Path) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_no_room_that_serves_loads_torch_or_the_trainer(root: Path) -> None:
    names = [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in modules(root)
        if path.relative_to(root).parts[0] != "trainer" and path.stem not in ("__init__", "testkit")
    ]
    loaded = loaded_after("import " + ", ".join(names), root)
    assert loaded.isdisjoint(TORCH | {"trainer", "sklearn", "pandas"})


def test_the_online_trainer_does_not_load_torch(root: Path) -> None:
    loaded = loaded_after("import trainer.cli, trainer.online, trainer.verify", root)
    assert loaded.isdisjoint(TORCH)


def test_the_command_line_loads_nothing_heavy(root: Path) -> None:
    loaded = loaded_after("import trainer.cli", root)
    assert loaded.isdisjoint({"numpy", "numba", "pydantic", "fastapi", "onnxruntime", "orjson", "msgspec"})
