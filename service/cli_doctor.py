"""`repl-ranker doctor`: prints what `doctor.py` finds; exit status 1 where something is broken."""

from __future__ import annotations

from collections import Counter

import typer

from service.console import Config, DataDir, Json, note, report


def doctor(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Reach every service of the settings and judge it: PASS, WARN and FAIL lines with the next step; status 1 on FAIL.

    Settings: clocks, disk, base, topics, rights, memory, persistence, versions.
    """
    import logging

    from service.doctor import Finding, examine
    from service.settings import load_settings

    settings, _ = load_settings(config, data_dir=data_dir)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what its client complains of is a finding here
    findings: list[Finding] = []
    for finding in examine(settings):
        findings.append(finding)
        if not json:
            print(finding, flush=True)
    counts = Counter(finding.verdict for finding in findings)
    if json:
        report({"ok": not counts["FAIL"], "findings": [finding._asdict() for finding in findings]}, as_json=True)
    else:
        note(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("PASS", "WARN", "FAIL")))
    if counts["FAIL"]:
        raise typer.Exit(1)
