"""`repl-ranker keys …`: make, list and revoke API keys. A running ranker takes up the change within a second.

It changes the keys file alone; nothing has to run. What a key may do is said in docs/security.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.console import Config, DataDir, Json, note, report

if TYPE_CHECKING:
    from service.keys import Scope
    from service.settings import Settings

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


def _settings(data_dir: Path | None, config: Path | None) -> Settings:
    from service.settings import load_settings

    return load_settings(config, data_dir=data_dir)[0]


@app.command("add")
def add(
    name: Annotated[str, typer.Option("--name", help="Who will use it: for people.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read, write or admin; may be repeated [default: read, write].")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Its one tenant [default: all].")] = None,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a key and print it, once: only its hash is kept. The first one ends access without a key."""
    settings = _settings(data_dir, config)
    from service import keys

    _check_tenant(settings, tenant)
    path = keys.keys_path(settings)
    with keys.changing(path) as found:
        first = not path.exists()
        key, token = keys.new_key(name, _scopes(scope or ["read", "write"]), tenant, time.time_ns() // 1_000_000)
        found.append(key)
    if first:
        note(f"{path} is new: from now on every call under /v1/ needs a key, on loopback too")
    note("the key is shown once; only its hash is kept")
    answer = {"key": token, **_shown(key)}
    report(answer, json, lambda: iter([token]))


@app.command("list")
def list_keys(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """List keys by id, without what opens anything."""
    settings = _settings(data_dir, config)
    from service import keys

    path = keys.keys_path(settings)
    found = keys.read_keys(path)
    shown = [_shown(key) for key in found or ()]
    report({"file": str(path), "keys": None if found is None else shown}, json, lambda: _lines(found is None, shown))


@app.command("revoke")
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a key back. The file stays when the last one goes: then the administrator's key alone opens."""
    settings = _settings(data_dir, config)
    from features.errors import SettingsError
    from service import keys

    path = keys.keys_path(settings)
    with keys.changing(path) as found:
        gone = [key for key in found if key.id == id]
        if not gone:
            raise SettingsError(f"no such key in {path}", field="id", value=id, hint="repl-ranker keys list")
        found[:] = [key for key in found if key.id != id]
    report(_shown(gone[0]) | {"revoked": True}, json)


def _scopes(given: Sequence[str]) -> tuple[Scope, ...]:
    from features.errors import SettingsError
    from service.keys import SCOPES

    for name in given:
        if name not in SCOPES:
            raise SettingsError("no such scope", field="scope", value=name, hint=f"there are {', '.join(SCOPES)}")
    return tuple(name for name in SCOPES if name in given)


def _check_tenant(settings: Settings, tenant: str | None) -> None:
    from features.errors import SettingsError

    known = list(settings.tenants) or [settings.tenant]
    if tenant is not None and tenant not in known:
        hint = f"the settings have {', '.join(known)}"
        raise SettingsError("no such tenant", field="tenant", value=tenant, hint=hint)


def _shown(key: Any) -> dict[str, Any]:
    created = datetime.fromtimestamp(key.created / 1000, UTC).isoformat(timespec="seconds")
    return {"id": key.id, "name": key.name, "scopes": list(key.scopes), "tenant": key.tenant, "created": created}


def _lines(without: bool, shown: list[dict[str, Any]]) -> Iterator[str]:
    if without:
        yield "there is no keys file: calls need no API key (docs/security.md)"
    for key in shown:
        scopes = ",".join(key["scopes"])
        yield f"{key['id']}  {scopes:<16}  {key['tenant'] or 'all tenants':<16}  {key['created']}  {key['name']}"
