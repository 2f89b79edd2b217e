"""What a change of schema asks for: nothing, a new last layer, or a new network; field by field, with the reason. It
compares two schemas, or two base models with theirs; it trains nothing and serves nothing.

  compatible         the base model goes on as it is
  refit last layer   the network stays, the last layer's inputs change: a base with a newly fitted last layer
  retrain            inputs of the network change: a base trained anew
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from features.errors import SchemaError
from features.schema import BEHAVIOURS, NumericField, Schema
from service.artifact import MANIFEST, Manifest, read_manifest

Verdict = Literal["compatible", "refit last layer", "retrain"]
ORDER: tuple[Verdict, ...] = ("compatible", "refit last layer", "retrain")
ROLES = {
    "title": ("retrain", "its words are an input of the item tower"),
    "category": ("retrain", "it is an input of the item tower, and counters are kept by it"),
    "brand": ("retrain", "it is an input of the item tower"),
    "price": ("refit last layer", "its bands are inputs of the last layer only"),
}
SCALED = {
    "scope": "the input comes from elsewhere",
    "default": "items without a value get another input",
    "mean": "the input is shifted",
    "std": "the input is scaled differently",
}


class Difference(NamedTuple):
    """One field, what it was and is, and what that asks for."""

    verdict: Verdict
    field: str
    before: str
    after: str
    why: str

    def __str__(self) -> str:
        return f"{self.verdict:<16}  {self.field}: {self.before} → {self.after}: {self.why}"


class Side(NamedTuple):
    """One of the two: its schema, and the manifest where it is a base model."""

    schema: Schema
    manifest: Manifest | None
    sha256: str | None


def read_side(path: Path) -> Side:
    """A schema YAML, or a base model's directory. Raises SchemaError, ArtifactError with what to do."""
    if path.is_dir() or path.name == MANIFEST:
        manifest, sha256 = read_manifest(path if path.is_dir() else path.parent)
        return Side(Schema.from_dict(manifest.schema), manifest, sha256)
    if not path.exists():
        hint = "name a schema YAML, or the directory of a base model (data/base/SHA256)"
        raise SchemaError(f"{path} is not there", field="schema", value=path, hint=hint)
    return Side(Schema.load(path), None, None)


def verdict_of(found: list[Difference]) -> Verdict:
    """The hardest of all."""
    return max((one.verdict for one in found), key=ORDER.index, default="compatible")


def differences(a: Side, b: Side) -> list[Difference]:
    """Everything that counts, hardest first. Equal fingerprints have no difference of schema."""
    found = [*_roles(a.schema, b.schema), *_numeric(a.schema, b.schema), *_behaviours(a.schema, b.schema)]
    found += [*_languages(a.schema, b.schema), *_bases(a, b)]
    return sorted(found, key=lambda one: -ORDER.index(one.verdict))


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _roles(a: Schema, b: Schema) -> Iterator[Difference]:
    for role, (verdict, why) in ROLES.items():
        before, after = getattr(a, role), getattr(b, role)
        if before != after:
            yield Difference(verdict, role, _shown(before), _shown(after), why)  # type: ignore[arg-type]


def _numeric(a: Schema, b: Schema) -> Iterator[Difference]:
    before, after = ({field.name: field for field in schema.numeric} for schema in (a, b))
    for name in before.keys() - after.keys():
        yield Difference("refit last layer", f"numeric {name}", "an input", "gone", "the last layer loses an input")
    for name in after.keys() - before.keys():
        yield Difference("refit last layer", f"numeric {name}", "none", "an input", "the last layer gets an input")
    for name in sorted(before.keys() & after.keys()):
        yield from _one(before[name], after[name])
    both = before.keys() & after.keys()
    was, now = (", ".join(field.name for field in schema.numeric if field.name in both) for schema in (a, b))
    if was != now:
        yield Difference("refit last layer", "order of numeric", was, now, "inputs change their places")


def _one(before: NumericField, after: NumericField) -> Iterator[Difference]:
    for part, why in SCALED.items():
        was, now = getattr(before, part), getattr(after, part)
        if was != now:
            yield Difference("refit last layer", f"numeric {before.name}.{part}", _shown(was), _shown(now), why)


def _behaviours(a: Schema, b: Schema) -> Iterator[Difference]:
    names = {code: name for name, code in BEHAVIOURS.items()}
    for kind in sorted(a.behaviours.keys() | b.behaviours.keys()):
        before, after = (names.get(schema.behaviour(kind)) for schema in (a, b))
        if before == after:
            continue
        if before is not None and after is not None:
            why = "the user tower knows these events as another behaviour, labels change"
            yield Difference("retrain", f"type {kind}", before, after, why)
        else:
            why = "counters, labels and histories count other events; what a behaviour means to the network stays"
            yield Difference("refit last layer", f"type {kind}", _shown(before), _shown(after), why)


def _languages(a: Schema, b: Schema) -> Iterator[Difference]:
    if a.languages == b.languages:
        return
    before, after = (", ".join(schema.languages) or "none" for schema in (a, b))
    if a.languages[:1] != b.languages[:1]:
        yield Difference("retrain", "languages", before, after, "words are cut and stemmed by the first one")
    else:
        why = "only the first one is used so far, but the fingerprint covers all"
        yield Difference("refit last layer", "languages", before, after, why)


def _bases(a: Side, b: Side) -> Iterator[Difference]:
    """Two bases of one schema: what was learned for the one does not fit the other."""
    if a.manifest is None or b.manifest is None or a.sha256 == b.sha256:
        return
    why = "weights learned for the one are not used with the other: it starts from its own prior; counters stay"
    assert a.sha256 is not None
    assert b.sha256 is not None
    yield Difference("refit last layer", "base", a.sha256[:12], b.sha256[:12], why)
    pairs = {
        "hidden": (a.manifest.hidden, b.manifest.hidden, "the network gives another number of inputs"),
        "tables": (a.manifest.tables, b.manifest.tables, "IDs are coded into tables of other sizes"),
        "heads": (a.manifest.heads, b.manifest.heads, "other labels are predicted"),
    }
    for name, (before, after, reason) in pairs.items():
        if before != after:
            yield Difference("refit last layer", name, _shown(before), _shown(after), reason)
