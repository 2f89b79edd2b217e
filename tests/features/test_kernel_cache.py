"""A kernel that others compile in is edited: what they cached is forgotten, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from features.kernel_cache import forget_stale_kernels

INNER = "from numba import njit\n\n\n@njit(cache=True)\ndef inner():\n    return {}\n"
OUTER = (
    "from numba import njit\nfrom features.inner_kernels import inner\n\n\n"
    "@njit(cache=True)\ndef outer():\n    return inner()\n"
)
OTHER = "from numba import njit\n\n\n@njit(cache=True)\ndef other():\n    return 0\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "features").mkdir()
    (tmp_path / "features/__init__.py").touch()
    (tmp_path / "features/inner_kernels.py").write_text(INNER.format(1))
    (tmp_path / "features/outer_kernels.py").write_text(OUTER)
    (tmp_path / "features/other_kernels.py").write_text(OTHER)
    return tmp_path


def answers(tree: Path) -> int:
    code = (
        "from features.outer_kernels import outer; from features.other_kernels import other; other(); print(outer())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True, env=environment
    )
    return int(done.stdout)


def test_what_was_compiled_in_is_compiled_anew(tree: Path) -> None:
    cache = tree / "features/__pycache__"
    assert (forget_stale_kernels(tree), answers(tree)) == (0, 1)
    other = next(cache.glob("other_kernels.*.nbi")).stat().st_mtime_ns
    assert forget_stale_kernels(tree) == 0
    (tree / "features/inner_kernels.py").write_text(INNER.format(2))
    assert answers(tree) == 1, "numba itself sees only that inner has changed: then this module can go"
    assert (forget_stale_kernels(tree), answers(tree)) == (1, 2)
    assert next(cache.glob("other_kernels.*.nbi")).stat().st_mtime_ns == other


def test_an_edit_reaches_through_kernels_between(tree: Path) -> None:
    (tree / "features/outermost_kernels.py").write_text("from features.outer_kernels import outer\n")
    cache = tree / "features/__pycache__"
    cache.mkdir()
    for name in ("inner", "outer", "outermost", "other"):
        (cache / f"{name}_kernels.f-1.py311.nbi").touch()
    later = (cache / "other_kernels.f-1.py311.nbi").stat().st_mtime_ns + 1_000_000_000
    os.utime(tree / "features/inner_kernels.py", ns=(later, later))
    assert forget_stale_kernels(tree) == 2
    assert sorted(path.name.split("_")[0] for path in cache.iterdir()) == ["inner", "other"]


def test_a_read_only_installation_is_left_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tree / "features/__pycache__"
    cache.mkdir()
    stale = cache / "outer_kernels.f-1.py311.nbi"
    stale.touch()
    os.utime(stale, ns=(0, 0))

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    assert forget_stale_kernels(tree) == 0
    assert stale.exists()
