"""The settings of one tenant: those of the process, under what its table `[tenants.NAME]` says, with places of its own.

It opens nothing. A tenant's places are its data directory, its log and its name, by which keys in Redis begin; that no
two tenants share one is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from features.errors import SettingsError
from service.settings import Settings, check_objective, nearest

MOST = 64
OF_THE_PROCESS = frozenset(
    ("host", "port", "tenant", "tenants", "admin_key", "keys_file", "metrics_open", "tls_cert", "tls_key",
     "log_level", "request_log", "drain_seconds")
)  # fmt: skip
"""Settings that a tenant cannot have for itself."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def tenant_settings(settings: Settings, name: str) -> Settings:
    """The settings of a tenant of `settings.tenants`. Raises SettingsError naming the tenant and the setting."""
    if name not in settings.tenants:
        hint = f"there are {', '.join(sorted(settings.tenants))}: --tenant NAME, or REPL_TENANT"
        raise SettingsError("no such tenant in the settings", field="tenant", value=name, hint=hint)
    own = settings.tenants[name]
    for setting in own:
        _check_name(name, setting)
    places: dict[str, Any] = {"data_dir": settings.data_dir / "tenants" / name}
    if settings.log_url:
        places["log_url"] = _own_topics(settings.log_url, name)
    try:
        found = Settings.model_validate({**dict(settings), **places, **own, "tenant": name, "tenants": {}})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(("tenants", name, *(str(part) for part in first["loc"])))
        raise SettingsError(first["msg"], field=field, value=first.get("input")) from error
    check_objective(found)
    return found


def _check_name(tenant: str, setting: str) -> None:
    field = f"tenants.{tenant}.{setting}"
    if setting not in Settings.model_fields:
        raise SettingsError(f"unknown setting {setting!r}", field=field, hint=nearest(setting))
    if setting in OF_THE_PROCESS:
        raise SettingsError(f"{setting} is one for the whole process", field=field, hint="set it outside of [tenants]")


def _own_topics(log_url: str, name: str) -> str:
    """The log's URL with the tenant's name behind the prefix of its topics."""
    parts = urlsplit(log_url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('.')}.{name}"))


def settings_by_tenant(settings: Settings) -> dict[str, Settings]:
    """The settings of every tenant by its name; of a process with one tenant, its own."""
    if not settings.tenants:
        return {settings.tenant: settings}
    return {name: tenant_settings(settings, name) for name in settings.tenants}


def one_tenant(settings: Settings) -> Settings:
    """The settings of the tenant that `tenant` names: for what works on one at a time. Raises SettingsError."""
    return tenant_settings(settings, settings.tenant) if settings.tenants else settings


def check_tenants(settings: Settings) -> None:
    """Raise SettingsError unless every tenant has a name, settings and places that can be."""
    if len(settings.tenants) > MOST:
        raise SettingsError(f"a ranker serves {MOST} tenants at most", field="tenants", value=len(settings.tenants))
    for name in settings.tenants:
        if not _NAME.fullmatch(name):
            hint = "small letters, digits, - and _; at most 63"
            raise SettingsError("not a name for a tenant", field="tenants", value=name, hint=hint)
    found = settings_by_tenant(settings)
    _all_differ(found, "data_dir", lambda one: Path(one.data_dir).resolve())
    _all_differ(found, "log_url", lambda one: one.log_url and urlsplit(one.log_url)[:3])


def _all_differ(found: Mapping[str, Settings], setting: str, value_of: Callable[[Settings], Any]) -> None:
    whose: dict[Any, str] = {}
    for name, settings in found.items():
        value = value_of(settings)
        if value is not None and (other := whose.setdefault(value, name)) != name:
            raise SettingsError(
                f"the tenants {other!r} and {name!r} have the same {setting}",
                field=f"tenants.{name}.{setting}",
                value=value,
                hint="each needs its own",
            )
