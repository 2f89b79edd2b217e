"""numba's cache, kept true: a kernel that is compiled into others makes their cached code stale when it is edited.

numba keeps what it compiled beside the sources (`__pycache__/*.nbi`) and looks only whether a kernel's own file has
changed. This forgets, before anything is compiled, what is older than a kernel file that it imports; the rest stays. It
imports no kernel and compiles nothing.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_IMPORT = re.compile(r"^from ((?:\w+\.)+\w+_kernels) import", re.MULTILINE)


def forget_stale_kernels(root: Path = ROOT, packages: tuple[str, ...] = ("features", "service", "trainer")) -> int:
    """Delete cached kernels that are older than what they import; how many. An installation that cannot be written to
    is left alone: its sources do not change.
    """
    files = [path for package in packages for path in (root / package).glob("*_kernels.py")]
    named = {".".join(path.relative_to(root).with_suffix("").parts): path for path in files}
    imported = {path: [named[name] for name in _imports(path) if name in named] for path in files}
    forgotten = 0
    for path in files:
        newest = max((other.stat().st_mtime_ns for other in _closure(path, imported)), default=0)
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*.nbi"):
            with contextlib.suppress(OSError):  # read-only, or another process was first
                if cached.stat().st_mtime_ns <= newest:
                    cached.unlink()
                    forgotten += 1
    return forgotten


def _imports(path: Path) -> list[str]:
    return _IMPORT.findall(path.read_text(encoding="utf-8"))


def _closure(path: Path, imported: dict[Path, list[Path]]) -> set[Path]:
    """All kernel files that one imports, directly or through others."""
    found: set[Path] = set()
    waiting = list(imported[path])
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += imported[other]
    return found
