"""What every test may rely on: one thread, no settings of the developer's shell, a data directory of its
own.
"""

from __future__ import annotations

import os
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported anywhere: results repeat to the bit

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def in_ci() -> bool:
    """True where a missing system package must fail a test instead of skipping it."""
    return os.environ.get("CI") == "true"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("REPL_") and name not in ("REPL_CHROMIUM", "REPL_PAGE_PICTURE"):
            monkeypatch.delenv(name)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the source tree."""
    return ROOT
