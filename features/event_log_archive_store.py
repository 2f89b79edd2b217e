"""An archive as it lies: its newest manifest, and how a next one takes its place. It decides nothing.

One writer at a time: manifest n + 1 is created, never replaced, so that of two writers that both stand at n one finds
it taken and stops.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from features.errors import Fenced, LogError
from features.event_log_archive_manifest import Garbage, Manifest, manifest_path, number_of
from features.event_log_archive_place import TEMPORARY, ArchivePlace

KEEP_MANIFESTS = 5
FOLDER = "manifest"


class ArchiveStore:
    """Manifests of the archive at a URL."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError."""
        self.place = ArchivePlace(url)

    def latest(self) -> Manifest | None:
        """The archive as it is; None where there is none. Raises LogError."""
        numbers = self._numbers()
        if not numbers:
            return None
        path = manifest_path(numbers[-1])
        return Manifest.from_bytes(self.place.get(path), path)

    def _numbers(self) -> list[int]:
        return sorted(number for path in self.place.list(FOLDER) if (number := number_of(path)) is not None)

    def commit(self, manifest: Manifest, new: Iterable[str]) -> Manifest:
        """Make the archive be what this manifest says; `new`: the parts that it names first. All or nothing.

        Raises Fenced where another writer was faster, LogError where a part is not there.
        """
        missing = [path for path in new if not self.place.exists(path)]
        if missing:
            raise LogError("a part of the archive has vanished before it was named", field="archive", value=missing[0])
        if not self.place.create(manifest_path(manifest.number), manifest.to_bytes()):
            raise Fenced(
                f"manifest {manifest.number} of the archive is there already: another `archive` writes to it",
                field="archive", value=self.place.shown, hint="stop one of the two",
            )  # fmt: skip
        return manifest

    def drop_old(self) -> None:
        """Delete all manifests but the newest few. Raises LogError."""
        for number in self._numbers()[:-KEEP_MANIFESTS]:
            self.place.delete(manifest_path(number))

    def sweep(self, manifest: Manifest, now: int, orphans_after_ms: int) -> tuple[Manifest, int]:
        """Delete replaced parts whose time has come, and orphans: parts that no manifest names, of this age.

        Returns the manifest to go on with, and how many objects went.
        """
        named = {part.path for part in manifest.parts} | {one.path for one in manifest.garbage}
        old = [
            path
            for path, written in self.place.list().items()
            if path not in named and _ours(path) and written is not None and now - written * 1_000 >= orphans_after_ms
        ]
        due = [one.path for one in manifest.garbage if one.at <= now]
        for path in [*old, *due]:
            self.place.delete(path)
        if due:
            left: list[Garbage] = [one for one in manifest.garbage if one.at > now]
            manifest = self.commit(
                msgspec.structs.replace(manifest, number=manifest.number + 1, garbage=left, written=now), ()
            )
        return manifest, len(old) + len(due)


def _ours(path: str) -> bool:
    """Whether an object is one that an archive writes: a part or a draft of one. All others are left alone."""
    name = path.rpartition("/")[2]
    return (path.startswith("tenant=") and name.endswith(".parquet")) or name.startswith(TEMPORARY)
