"""What state must offer to be checkpointed: chunks of bytes, written only when changed. Implements nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Chunked(Protocol):
    """State that is stored as named, immutable chunks (each later named by its sha256) and restored bit for bit."""

    def changed_chunks(self) -> dict[str, bytes]:
        """Every chunk changed since `mark_clean` (all of them at first), by name."""

    def chunk_names(self) -> list[str]:
        """All chunks that exist now, changed or not."""

    def mark_clean(self) -> None:
        """The changed chunks are stored: forget that they changed."""

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """Replace the whole state by these chunks; clean afterwards."""

    def digest(self) -> str:
        """sha256 in hex over the content: equal for equal state, however it was reached."""
