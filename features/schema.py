"""What the fields of a shop's events mean: the schema YAML, validated and fingerprinted. It reads no events.

    schema: 1
    fields:
      - {name: title, scope: item, role: title}
      - {name: margin, scope: item, role: numeric, default: 0.2, mean: 0.3, std: 0.1}
      - {name: bm25, scope: candidate, role: numeric}
    behaviours: {click: [click, view], purchase: [purchase, buy]}
    languages: [en]

The fingerprint covers what would change the meaning of a stored number: roles, scopes, order and scaling of numeric
fields, behaviours, languages. Fields that the schema does not name are stored, can be filtered on, and mean nothing.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec
import orjson
import yaml

from features.errors import SchemaError

IMPRESSION, CLICK, FAVOURITE, CART, PURCHASE, REFUND = range(6)
BEHAVIOURS = {"click": CLICK, "favourite": FAVOURITE, "cart": CART, "purchase": PURCHASE, "refund": REFUND}
ROLES = ("title", "category", "brand", "price", "numeric")
SCOPES = ("item", "request", "candidate")
MAX_NUMERIC = 16

DEFAULT: dict[str, Any] = {
    "schema": 1,
    "fields": [
        {"name": role, "scope": "item", "role": role} for role in ("title", "category", "brand", "price")
    ],
    "behaviours": {
        "click": ["click", "view", "pv"],
        "favourite": ["favourite", "favorite", "fav", "wishlist"],
        "cart": ["cart", "add_to_cart", "basket"],
        "purchase": ["purchase", "buy", "order"],
        "refund": ["refund", "return"],
    },
    "languages": ["en"],
}


class NumericField(msgspec.Struct, frozen=True):
    """An input of the last layer: (value − mean) / std; `default` is the value taken where there is none.

    Scope `item`: a field of the item; `request`: of the request (context); `candidate`: of the request's item.
    """

    name: str
    scope: str
    default: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    def scaled(self, value: Any) -> float | None:
        """The standardised value, or None where `value` is not a finite number (then the default counts)."""
        if not isinstance(value, bool | int | float) or not math.isfinite(value):
            return None
        found = (float(value) - self.mean) / self.std
        return found if math.isfinite(found) else None


class Schema:
    """Names of the fields with a meaning, numeric inputs in order, and behaviour codes of interaction types."""

    def __init__(self, spec: dict[str, Any]) -> None:
        _refuse_unknown(spec, ("schema", "fields", "behaviours", "languages"), "schema")
        if spec.get("schema") != 1:
            raise SchemaError(
                "this code reads schema version 1",
                field="schema",
                value=spec.get("schema"),
                hint="set `schema: 1`",
            )
        fields = [_field(entry, i) for i, entry in enumerate(_list(spec, "fields"))]
        self.title = _role(fields, "title")
        self.category = _role(fields, "category")
        self.brand = _role(fields, "brand")
        self.price = _role(fields, "price")
        self.numeric: tuple[NumericField, ...] = tuple(
            _numeric(entry, i) for i, entry in enumerate(fields) if entry["role"] == "numeric"
        )
        if len(self.numeric) > MAX_NUMERIC:
            raise SchemaError(
                f"at most {MAX_NUMERIC} numeric fields",
                field="fields",
                value=len(self.numeric),
                hint="drop some",
            )
        names = [field.name for field in self.numeric]
        if len(set(names)) < len(names):
            raise SchemaError(
                "two numeric fields have one name", field="fields", value=names, hint="rename one"
            )
        self.behaviours = _behaviours(spec.get("behaviours", DEFAULT["behaviours"]))
        self.languages: tuple[str, ...] = _languages(spec.get("languages", DEFAULT["languages"]))
        scaling = {
            (f.name, f.scope): {"default": f.default, "mean": f.mean, "std": f.std} for f in self.numeric
        }
        self._fields = [
            {**entry, **scaling[entry["name"], entry["scope"]]} if entry["role"] == "numeric" else entry
            for entry in fields
        ]

    @classmethod
    def default(cls) -> Schema:
        """title, category, brand, price, and the usual names of behaviours."""
        return cls(DEFAULT)

    @classmethod
    def from_dict(cls, spec: dict[str, Any]) -> Schema:
        """The schema that `to_dict` gave."""
        return cls(spec)

    @classmethod
    def load(cls, path: Path | None) -> Schema:
        """Read a YAML file (None: the default). Raises SchemaError with field, value and what to do."""
        if path is None:
            return cls.default()
        try:
            spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SchemaError(f"cannot read schema {path}: {error}", hint="see docs/events.md") from error
        if not isinstance(spec, dict):
            raise SchemaError(f"schema {path} is not a mapping", hint="see docs/events.md")
        return cls(spec)

    def to_dict(self) -> dict[str, Any]:
        """The canonical form: what the fingerprint covers and the artifact stores."""
        by_code: dict[str, list[str]] = {name: [] for name in BEHAVIOURS}
        names = {code: name for name, code in BEHAVIOURS.items()}
        for kind, code in sorted(self.behaviours.items()):
            by_code[names[code]].append(kind)
        return {
            "schema": 1,
            "fields": [dict(sorted(entry.items())) for entry in self._fields],
            "behaviours": by_code,
            "languages": list(self.languages),
        }

    @property
    def fingerprint(self) -> str:
        """sha256 in hex of the canonical form."""
        return hashlib.sha256(orjson.dumps(self.to_dict(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def behaviour(self, kind: str) -> int:
        """Code of an interaction type: 1 click … 5 refund, -1 where the schema does not map it."""
        return self.behaviours.get(kind, -1)


def _refuse_unknown(entry: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in entry:
        if name not in known:
            raise SchemaError(
                f"unknown key in the schema; known: {', '.join(known)}", field=where, value=name
            )


def _list(spec: dict[str, Any], name: str) -> list[Any]:
    found = spec.get(name, DEFAULT[name])
    if not isinstance(found, list):
        raise SchemaError(f"{name} must be a list", field=name, value=found)
    return found


def _field(entry: Any, i: int) -> dict[str, Any]:
    where = f"fields[{i}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise SchemaError("a field needs a name", field=where, value=entry, hint="{name, scope, role}")
    _refuse_unknown(entry, ("name", "scope", "role", "default", "mean", "std"), where)
    role, scope = entry.get("role"), entry.get("scope", "item")
    if role not in ROLES:
        raise SchemaError(f"role must be one of {', '.join(ROLES)}", field=f"{where}.role", value=role)
    if scope not in SCOPES or (role != "numeric" and scope != "item"):
        raise SchemaError(
            f"scope must be one of {', '.join(SCOPES)} (item for a role other than numeric)",
            field=f"{where}.scope",
            value=scope,
        )
    for name in ("default", "mean", "std"):
        if name in entry and role != "numeric":
            raise SchemaError(
                f"{name} belongs to a numeric field",
                field=f"{where}.{name}",
                value=entry[name],
                hint="drop it",
            )
    return {**entry, "scope": scope}


def _role(fields: list[dict[str, Any]], role: str) -> str | None:
    names = [entry["name"] for entry in fields if entry["role"] == role]
    if len(names) > 1:
        raise SchemaError(f"only one field can be the {role}", field="fields", value=names)
    return str(names[0]) if names else None


def _numeric(entry: dict[str, Any], i: int) -> NumericField:
    for name in ("default", "mean", "std"):
        value = entry.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SchemaError("must be a finite number", field=f"fields[{i}].{name}", value=value)
    if entry.get("std", 1.0) <= 0:
        raise SchemaError("std must be above 0", field=f"fields[{i}].std", value=entry["std"])
    given = {name: float(entry[name]) for name in ("default", "mean", "std") if name in entry}
    return NumericField(name=entry["name"], scope=entry["scope"], **given)


def _behaviours(spec: Any) -> dict[str, int]:
    if not isinstance(spec, dict):
        raise SchemaError("behaviours must be a mapping", field="behaviours", value=spec)
    codes: dict[str, int] = {}
    for name, kinds in spec.items():
        if name not in BEHAVIOURS or not isinstance(kinds, list):
            raise SchemaError(
                f"behaviours map {', '.join(BEHAVIOURS)} to lists of types",
                field=f"behaviours.{name}",
                value=kinds,
            )
        for kind in kinds:
            if not isinstance(kind, str):
                raise SchemaError("a type is a text", field=f"behaviours.{name}", value=kind, hint="quote it")
            if codes.setdefault(kind, BEHAVIOURS[name]) != BEHAVIOURS[name]:
                raise SchemaError("one type has two behaviours", field=f"behaviours.{name}", value=kind)
    return codes


def _languages(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SchemaError("languages is a list of texts", field="languages", value=names, hint="[en]")
    return tuple(names)
