"""`repl-ranker bench …`: measure what docs/performance.md states, on this machine, with everything switched
on.

Each bench is a module of trainer/bench with one `run`; this file only finds it, shows progress and prints.
"""

from __future__ import annotations

import importlib

import typer

from service.console import Config, DataDir, Json, progress_bar, report, settings_of

ABOUT = {
    "rank": "Latency and throughput of /v1/rank over HTTP.",
    "learn": "Examples and events a second of the online learner.",
    "freshness": "How soon a click is seen in scores: own at once, everybody's after the hold.",
    "retrieve": "Latency of /v1/retrieve over a million items.",
    "items": "Start, memory and encoding with a million items.",
}

app = typer.Typer(help="Measure this machine against the stated figures.", no_args_is_help=True)


def _add(name: str, about: str) -> None:
    def bench(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
        settings = settings_of(data_dir, config)
        module = importlib.import_module(f"trainer.bench.{name}")
        with progress_bar(f"bench {name}", "steps", quiet=json) as progress:
            answer = module.run(settings, progress=progress)
        report(answer, json)

    app.command(name, help=about)(bench)


for _name, _about in ABOUT.items():
    _add(_name, _about)
