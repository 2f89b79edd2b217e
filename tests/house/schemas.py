"""JSON schemas that packages bring along, and what a document breaks of one."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from jsonschema.validators import validator_for


def vendored(name: str) -> dict[str, Any]:
    """A schema of check-jsonschema: `compose-spec`, `github-workflows`."""
    text = files("check_jsonschema").joinpath(f"builtin_schemas/vendor/{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def broken(document: Any, schema: dict[str, Any]) -> list[str]:
    """What the document breaks of the schema; nothing if it is valid."""
    kind = validator_for(schema)
    kind.check_schema(schema)
    return [f"{error.json_path}: {error.message[:200]}" for error in kind(schema).iter_errors(document)]
