"""`repl-ranker doctor`: prints what `doctor.py` finds; exit status 1 where something is broken."""

from __future__ import annotations

from collections import Counter

import typer

from service.console import Config, DataDir, Json, all_settings_of, note, report


def doctor(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Reach every service of the settings and judge it: PASS, WARN and FAIL lines with the next step; status 1 on FAIL.

    Of every tenant: settings, clocks, disk, base, topics, rights, memory, persistence, versions.
    """
    import logging

    from service.doctor import Finding, examine
    from service.tenant_settings import settings_by_tenant

    settings = all_settings_of(data_dir, config)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what its client complains of is a finding here
    findings: list[tuple[str, Finding]] = []
    for tenant, own in settings_by_tenant(settings).items():
        if settings.tenants and not json:
            print(f"tenant {tenant}", flush=True)
        for finding in examine(own):
            findings.append((tenant, finding))
            if not json:
                print(finding, flush=True)
    counts = Counter(finding.verdict for _, finding in findings)
    if json:
        told = [finding._asdict() | ({"tenant": tenant} if settings.tenants else {}) for tenant, finding in findings]
        report({"ok": not counts["FAIL"], "findings": told}, as_json=True)
    else:
        note(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("PASS", "WARN", "FAIL")))
    if counts["FAIL"]:
        raise typer.Exit(1)
