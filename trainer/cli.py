"""The whole command line: the service's commands and those that import, learn, train and measure; it has
main().

Heavy imports stand inside the commands (`service/cli.py` says why). `run` lives here because it starts both
processes; each is this same program in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from features.errors import SettingsError
from features.kernel_cache import forget_stale_kernels
from service import cli_versions
from service.cli import Host, Port, app, host_to_call, url_of
from service.console import (
    Config,
    DataDir,
    Json,
    TenantName,
    all_settings_of,
    main_of,
    note,
    progress_bar,
    report,
    settings_of,
)
from trainer import cli_archive, cli_bench, cli_experiments, cli_import

app.add_typer(cli_import.app, name="import")
app.add_typer(cli_bench.app, name="bench")
app.add_typer(cli_experiments.app, name="experiments")
cli_archive.add_to(app)

STARTING = 300.0
"""Seconds after which a ranker that does not answer is an error."""

READING = 45.0
"""Seconds that `run` waits for the log to be read before it shows the URL all the same."""

Sample = Annotated[bool, typer.Option("--sample", help="Import the shipped data first, if the log is empty.")]


@app.command()
def run(
    data_dir: DataDir = None,
    config: Config = None,
    host: Host = None,
    port: Port = None,
    sample: Sample = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show both processes' logs here.")] = False,
) -> None:
    """Start ranker and trainer on the embedded store, wait until both answer, and stay until Ctrl-C."""
    settings = all_settings_of(data_dir, config, host=host, port=port)
    from service.processes import Processes, free_port
    from service.tenant_settings import settings_by_tenant

    port = free_port(settings.host, settings.port)
    parts = settings_by_tenant(settings)
    for part in parts.values() if sample else ():
        cli_import.import_sample(part)
    where = ["--data-dir", str(settings.data_dir)] + (["--config", str(config)] if config else [])
    itself = [sys.executable, "-m", "trainer.cli"]
    note("starting ranker and trainer …")
    with Processes(None if verbose else settings.data_dir / "logs") as processes:
        processes.start("ranker", [*itself, "serve", *where, "--host", settings.host, "--port", str(port)])
        for name in parts:
            one = ["--tenant", name] if settings.tenants else []
            processes.start(f"trainer-{name}" if one else "trainer", [*itself, "learn", *where, *one])
        from trainer.starting import Reading  # numpy and numba: both start meanwhile

        reading = Reading(settings, host_to_call(settings.host), port)
        if processes.wait_until(reading.answers, STARTING, "the ranker does not answer"):
            with progress_bar("reading the log", "events") as progress:
                processes.wait_until(reading.until_read(progress), READING)
            if left := reading.total - reading.done():
                note(f"{left:,} of {reading.total:,} events are still to be read; that goes on meanwhile")
            url = url_of(settings.host, port, tls=settings.tls_cert is not None)
            note(f"ready:  {url}   (data in {settings.data_dir}, Ctrl-C ends it)")
            processes.watch()
    note("stopped")


@app.command()
def learn(
    data_dir: DataDir = None,
    config: Config = None,
    tenant: TenantName = None,
    all_tenants: Annotated[
        bool,
        typer.Option(
            "--all-tenants", help="Every tenant of the settings, shared with all others that are started like this."
        ),
    ] = False,
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait while another trainer is at work; take over when it ends.")
    ] = False,
    resume_at: Annotated[
        str | None,
        typer.Option(
            "--resume-at", help="Go on with another log, or past what is gone: earliest, latest or a time (ISO)."
        ),
    ] = None,
) -> None:
    """Learn online: follow the log, update counters and weights, publish versions. Runs until stopped."""
    if all_tenants:
        for option, given in (("tenant", tenant), ("standby", standby), ("resume_at", resume_at)):
            if given:
                hint = "start this tenant's trainer by itself, without --all-tenants"
                raise SettingsError("--all-tenants trains all of them, each as a standby", field=option, hint=hint)
        from trainer.group import run_group

        run_group(all_settings_of(data_dir, config))
        return
    settings = settings_of(data_dir, config, tenant=tenant)
    from service.logs import set_up
    from trainer.live import run_until_told

    set_up(settings.log_level)
    run_until_told(settings, standby=standby, resume_at=resume_at)


@app.command()
def train(
    data_dir: DataDir = None,
    config: Config = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where bases are kept [default: DATA_DIR/base].")
    ] = None,
    sample: Sample = False,
    from_archive: cli_archive.FromArchive = None,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Train a base model offline from the imported log (needs torch: `make train`); `run` then serves it."""
    settings = settings_of(data_dir, config, tenant=tenant)
    from service.console import require

    if from_archive is not None:
        cli_archive.require_archive()
    require("torch", "training needs torch", "run `make train`, or: pip install 'repl-ranker[train]'")
    if sample:
        cli_import.import_sample(settings)
    from trainer.offline import train as train_base

    with progress_bar("training", "steps", quiet=json) as progress:
        made = train_base(settings, out or settings.data_dir / "base", from_archive=from_archive, progress=progress)
    report({"base": str(made)}, json)


@app.command()
def validate(file: Path, data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Judge a file of events before importing it: PASS, WARN and FAIL lines; exit status 1 on FAIL."""
    settings = settings_of(data_dir, config)
    from trainer.validate import validate_file

    with progress_bar("reading", "lines", quiet=json) as progress:
        checks = validate_file(file, tenant=settings.tenant, progress=progress)
    report(
        {"file": str(file), "checks": [check._asdict() for check in checks]}, json, lambda: map(str, checks)
    )
    if any(check.verdict == "FAIL" for check in checks):
        raise typer.Exit(1)


@app.command()
def backtest(
    file: Annotated[
        Path | None, typer.Argument(help="An Online Retail CSV [default: the shipped one].")
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Score each n-th basket after the cut.")] = 4,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Replay Online Retail under a stated protocol and rank what was bought after the cut (no log is
    touched).
    """
    settings_of(data_dir, config)
    from trainer.cli_backtest import backtest_online_retail, lines

    with progress_bar("replaying", "events", quiet=json) as progress:
        answer = backtest_online_retail(file, every, progress)
    report(answer, json, lambda: lines(answer))


@cli_versions.app.command("verify")
def verify(
    version: cli_versions.Number, data_dir: DataDir = None, config: Config = None, json: Json = False
) -> None:
    """Replay the log from the nearest checkpoint and compare the hash of every version up to this one."""
    settings = settings_of(data_dir, config)
    from trainer.verify import verify as verify_version

    answer = verify_version(settings, version)
    report(answer, json)
    if not answer["ok"]:
        raise typer.Exit(1)


@app.command()
def warm(json: Json = False) -> None:
    """Compile and cache every kernel now, so that the first start does not have to."""
    from trainer.warm import warm_kernels

    with progress_bar("compiling kernels", "steps", quiet=json) as progress:
        answer = warm_kernels(progress)
    report(answer, json, lambda: iter([f"kernels are compiled ({sum(answer.values()):.0f} s)"]))


def main() -> None:
    """The `repl-ranker` command."""
    forget_stale_kernels()
    main_of(app)


if __name__ == "__main__":
    main()
