"""The commands that the service needs alone: serve, states, config, topics, versions, base, keys, dead-letter.
`trainer/cli.py` adds the rest and has main().

Nothing heavy is imported here: every command imports what it runs, so that `--help` answers at once and
`serve` never loads the trainer or torch.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from service import (
    cli_base,
    cli_dead_letter,
    cli_doctor,
    cli_keys,
    cli_mode,
    cli_schema,
    cli_size,
    cli_states,
    cli_versions,
)
from service.console import Config, DataDir, Json, TenantName, all_settings_of, main_of, note, report

app = typer.Typer(
    name="repl-ranker",
    help="A ranking service that learns from what people do next.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_versions.app, name="versions")
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_dead_letter.app, name="dead-letter")
app.command("mode")(cli_mode.mode)
app.add_typer(cli_schema.app, name="schema")
app.add_typer(cli_base.app, name="base")

Host = Annotated[str | None, typer.Option("--host", help="Address to bind to [default: 127.0.0.1].")]
Port = Annotated[int | None, typer.Option("--port", help="Port to bind to [default: 8080].")]


@app.callback()
def everywhere() -> None:
    """A ranking service that learns from what people do next."""


@app.command()
def serve(
    data_dir: DataDir = None,
    config: Config = None,
    host: Host = None,
    port: Port = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that answer on this port [default: 1].")
    ] = None,
) -> None:
    """Answer rank, retrieve and event requests over HTTP (the ranker alone, no learning)."""
    settings = all_settings_of(data_dir, config, host=host, port=port, workers=workers)
    from service.workers import supervised

    url = url_of(settings.host, settings.port, tls=settings.tls_cert is not None)

    def ready() -> None:
        note(f"ready on {url}")

    if supervised(settings, ready):
        return
    from service.app import serve as serve_app

    serve_app(settings, ready=ready)


@app.command("config")
def show_config(
    data_dir: DataDir = None, config: Config = None, tenant: TenantName = None, json: Json = False
) -> None:
    """Show every setting: its effective value and where that came from; secrets are masked."""
    from service.settings import load_settings

    settings, sources = load_settings(config, data_dir=data_dir, tenant=tenant)
    if tenant is not None and settings.tenants:
        from service.tenant_settings import tenant_settings

        own, whole = tenant_settings(settings, tenant), settings
        other = [name for name in sources if getattr(own, name) != getattr(whole, name)]
        sources |= dict.fromkeys([*whole.tenants[tenant], *other], f"tenants.{tenant}")
        settings = own
    values: dict[str, Any] = settings.model_dump(mode="json")
    fields = type(settings).model_fields
    answer = {
        name: {"value": value, "source": sources[name], "about": fields[name].description or ""}
        for name, value in values.items()
    }
    if json:
        report(answer, as_json=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "source", "environment", box=None, pad_edge=False)
    for name, row in answer.items():
        style = None if row["source"] == "default" else "bold"
        table.add_row(name, str(row["value"]), row["source"], f"REPL_{name.upper()}", style=style)
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


@app.command()
def topics(
    partitions: Annotated[int, typer.Option("--partitions", min=1, help="Of events and served records.")] = 6,
    replication: Annotated[int, typer.Option("--replication", min=1, help="Copies of each topic.")] = 1,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make the topics of log_url that are missing, and say how those that are there differ from the settings."""
    from features.errors import SettingsError
    from features.event_log import kafka_address, make_kafka_topics
    from service.settings import load_settings
    from service.tenant_settings import settings_by_tenant

    settings, _ = load_settings(config, data_dir=data_dir)
    if not settings.log_url:
        raise SettingsError("log_url is not set", field="log_url", hint="for example kafka://host:9092/shop")
    parts = settings_by_tenant(settings).values()
    lines = [line for part in parts for line in make_kafka_topics(part, partitions, replication)]
    answer = {"log": kafka_address(settings).shown, "topics": lines}
    report(answer, json, lambda: iter(lines or ["all topics are there, as planned"]))


app.command("doctor")(cli_doctor.doctor)
app.command("size")(cli_size.size)
app.command("states")(cli_states.states)


def host_to_call(host: str) -> str:
    """The name to call a server by that is bound to `host`: a wildcard address is reached over loopback."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host


def url_of(host: str, port: int, tls: bool = False) -> str:
    """The address to show."""
    name, scheme = host_to_call(host), "https" if tls else "http"
    return f"{scheme}://[{name}]:{port}/" if ":" in name else f"{scheme}://{name}:{port}/"


def main() -> None:
    """Run the service's commands alone."""
    main_of(app)
