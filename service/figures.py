"""The benches' figures that `repl-ranker size` computes with: one JSON file, each with what, when and by which command.

`repl-ranker bench size --record` writes it; nothing else does. It measures and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from features.errors import ReplError

FORMAT = 1
FIGURES = Path(__file__).parent / "figures.json"
"""The file that is shipped; `size --figures` names another one."""


class Figure(msgspec.Struct, frozen=True):
    """One measured number. date: YYYY-MM-DD; command: what printed it; machine: where it ran, in words."""

    value: float
    unit: str
    about: str
    command: str
    date: str
    machine: str = ""


class Figures(msgspec.Struct, frozen=True):
    """What the file holds."""

    format: int
    figures: dict[str, Figure]

    def __getitem__(self, name: str) -> float:
        """The value of a figure. Raises ReplError where the file lacks it."""
        if name not in self.figures:
            raise ReplError(f"the figures lack {name}", value=name, hint="write them: repl-ranker bench size --record")
        return self.figures[name].value


def load_figures(path: Path = FIGURES) -> Figures:
    """Read the file. Raises ReplError with what to do."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Figures)
    except (OSError, msgspec.MsgspecError) as error:
        hint = "write them: repl-ranker bench size --record"
        raise ReplError(f"the figures cannot be read: {error}", field="figures", value=path, hint=hint) from error
    if found.format != FORMAT:
        raise ReplError(f"the figures have format {found.format}, this code reads {FORMAT}", value=path)
    return found


def record(found: Mapping[str, Figure], path: Path = FIGURES) -> None:
    """Put these figures in place of those of their names; the others stay."""
    there = load_figures(path).figures if path.exists() else {}
    merged = Figures(FORMAT, dict(sorted({**there, **found}.items())))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(merged), indent=1) + b"\n")
