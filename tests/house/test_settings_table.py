"""docs/cli.md lists every setting with its default; `WRITE_DOCS=1 pytest <this file>` writes the table
anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from service.settings import Settings

BEGIN, END = (
    "<!-- settings: written by tests/house/test_settings_table.py -->\n",
    "<!-- end of settings -->\n",
)
WRITE = os.environ.get("WRITE_DOCS") == "1"


def table() -> str:
    """The table as Markdown, from the settings class."""
    defaults = Settings().model_dump(mode="json")
    rows = ["| setting | default | what it is |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = json.dumps(defaults[name])
        shown = f"`{value}`" if len(value) < 60 else "see below"
        rows.append(f"| `{name}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_documented_table_is_that_of_the_code(root: Path) -> None:
    path = root / "docs/cli.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    shown, _, after = rest.partition(END)
    if WRITE:
        path.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
        return
    assert shown == table(), "run: WRITE_DOCS=1 .venv/bin/pytest tests/house/test_settings_table.py"
