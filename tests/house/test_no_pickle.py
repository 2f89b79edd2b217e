"""Invariant 8: no pickle crosses a process border. Nothing that is shipped can even read one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PICKLING = {"pickle", "_pickle", "pickletools", "cPickle", "cloudpickle", "joblib", "dill", "marshal", "shelve"}
NAMES = {"read_pickle", "to_pickle", "allow_pickle"}  # pandas and numpy reach it without an import


def _keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; None where it is missing or is computed."""
    found = next((given.value for given in call.keywords if given.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else None


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func)


def pickles(text: str) -> Iterator[str]:
    """Every place of a module that imports, names or lets in a pickle."""
    for node in ast.walk(ast.parse(text)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            modules = [node.value]  # import_module("pickle")
        yield from (name for name in modules if name.split(".")[0] in PICKLING)
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield node.attr
        if not isinstance(node, ast.Call):
            continue
        if any(given.arg in NAMES for given in node.keywords) and _keyword(node, "allow_pickle") is not False:
            yield "allow_pickle"
        if _called(node) == "torch.load" and _keyword(node, "weights_only") is not True:
            yield "torch.load without weights_only=True"
        if _called(node) == "torch.save":
            yield "torch.save"


def test_nothing_that_is_shipped_reads_or_writes_a_pickle(root: Path) -> None:
    found = {
        str(path.relative_to(root)): places
        for room in ("features", "service", "trainer", "deploy")
        for path in sorted((root / room).rglob("*.py"))
        if (places := list(pickles(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import os, cloudpickle as c",
        "def f():\n    from dill import loads",
        "from numpy.compat import pickle",
        "importlib.import_module('marshal')",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(model, path)",
        "pandas.read_pickle(path)",
    ],
)
def test_each_way_is_seen(line: str) -> None:
    assert list(pickles(line))


@pytest.mark.parametrize(
    "line", ["np.load(path)", "np.load(path, allow_pickle=False)", "torch.load(path, weights_only=True)", "'a pickle'"]
)
def test_what_is_safe_passes(line: str) -> None:
    assert not list(pickles(line))
