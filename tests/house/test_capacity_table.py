"""docs/operations.md says what three shops need as the code computes it; `WRITE_DOCS=1 pytest <this file>` writes it
anew (after figures were recorded).
"""

from __future__ import annotations

import os
from pathlib import Path

from service.cli_size import shown
from service.figures import load_figures
from service.settings import Settings
from service.sizing import Demand, plan

BEGIN, END = "<!-- capacity: written by tests/house/test_capacity_table.py -->\n", "<!-- end of capacity -->\n"
WRITE = os.environ.get("WRITE_DOCS") == "1"
SHOPS = {
    "10,000 users, 10,000 items, 100,000 events a day, 5 requests/s": Demand(10_000, 10_000, 1e5, 5),
    "1M users, 100,000 items, 10M events a day, 200 requests/s": Demand(1_000_000, 100_000, 1e7, 200),
    "10M users, 1M items, 100M events a day, 2,000 requests/s": Demand(10_000_000, 1_000_000, 1e8, 2_000),
}


def table() -> str:
    """The table as Markdown."""
    plans = [{need.name: need for need in plan(demand, load_figures(), Settings())} for demand in SHOPS.values()]
    rows = ["| | " + " | ".join(SHOPS) + " |", "| --- |" + " ---: |" * len(SHOPS)]
    for name in plans[0]:
        values = " | ".join(shown(found[name].value, found[name].unit) for found in plans)
        rows.append(f"| `{name}` | {values} |")
    return "\n".join(rows) + "\n"


def test_the_documented_table_is_that_of_the_code(root: Path) -> None:
    path = root / "docs/operations.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    found, _, after = rest.partition(END)
    if WRITE:
        path.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
        return
    assert found == table(), "run: WRITE_DOCS=1 .venv/bin/pytest tests/house/test_capacity_table.py"
