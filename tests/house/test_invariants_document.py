"""docs/invariants.md names only tests that are there, in the files that it names."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_that_it_names_is_there(root: Path) -> None:
    text = (root / "docs/invariants.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert files, "it names none"
    assert [name for name in sorted(files) if not (root / name).exists()] == []
    there = {
        name
        for path in files
        for name in re.findall(r"^def (test_\w+)\(", (root / path).read_text("utf-8"), re.MULTILINE)
    }
    assert sorted(set(re.findall(r"`(test_\w+)`", text)) - there) == []
