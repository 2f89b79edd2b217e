"""The command line: help of every command, --json, exit statuses, one message instead of a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from service.settings import Settings
from trainer.cli import app

RUNNER = CliRunner()


def every_command() -> list[tuple[str, ...]]:
    """Every command as words, groups included."""

    def walk(command: object, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        inner = getattr(command, "commands", {})
        return [words] + [found for name, sub in inner.items() for found in walk(sub, (*words, name))]

    return walk(typer.main.get_command(app), ())


COMMANDS = every_command()
REPORTS = ["config", "topics", "train", "validate", "warm", "backtest", "import", "bench", "versions"]


def repl(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "trainer.cli", *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "(none)")
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    done = RUNNER.invoke(app, [*words, "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 5


@pytest.mark.parametrize("words", [words for words in COMMANDS if words], ids=" ".join)
def test_every_command_is_documented(words: tuple[str, ...], root: Path) -> None:
    assert f"`{' '.join(words)}" in (root / "docs/cli.md").read_text() or (len(words) == 1 and words[0] in (
        "import", "versions", "bench",
    ))  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "(none)")
def test_every_command_takes_data_dir_and_config_and_reports_json(words: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]
    if hasattr(command, "commands"):
        return
    options = {option for parameter in command.params for option in parameter.opts}
    if words != ("warm",):
        assert {"--data-dir", "--config"} <= options
    if words[0] in REPORTS:
        assert "--json" in options


def test_help_answers_at_once(root: Path) -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        assert repl("--help", cwd=root).returncode == 0
        times.append(time.perf_counter() - started)
    assert min(times) < 1.0, "0.3 s on an idle machine, see docs/cli.md"


def test_config_tells_value_source_and_masks_secrets(data_dir: Path, root: Path) -> None:
    (data_dir / "repl-ranker.toml").write_text("hold_ms = 0\nlog_items = 7\n")
    secret = "do-not-print-me"
    done = repl(
        "config", "--data-dir", str(data_dir), "--json", cwd=root, REPL_ADMIN_KEY=secret, REPL_LOG_ITEMS="9"
    )
    assert done.returncode == 0
    assert secret not in done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer.keys() == Settings.model_fields.keys()
    assert (answer["hold_ms"]["value"], answer["hold_ms"]["source"]) == (0, "file")
    assert (answer["log_items"]["value"], answer["log_items"]["source"]) == (9, "environment")
    assert answer["data_dir"]["source"] == "command line"
    assert answer["port"]["source"] == "default"
    text = repl("config", "--data-dir", str(data_dir), cwd=root, REPL_ADMIN_KEY=secret)
    assert secret not in text.stdout
    assert "REPL_HOLD_MS" in text.stdout


@pytest.mark.parametrize(
    ("words", "environment", "status", "says"),
    [
        (("config",), {"REPL_HOLDMS": "1"}, 2, "did you mean 'hold_ms'"),
        (("config",), {"REPL_PORT": "seven"}, 2, "port"),
        (("config", "--config", "no-such.toml"), {}, 2, "no-such.toml"),
        (("validate", "no-such-file"), {}, 2, "no-such-file"),
        (("import", "events", "no-such-file"), {}, 2, "no-such-file"),
        (("import", "online-retail", "no-such-file"), {}, 2, "no-such-file"),
        (("versions", "list"), {}, 1, "no weights"),
        (("topics", "--json"), {}, 2, "log_url is not set"),
        (("topics", "--json"), {"REPL_LOG_URL": "redis://h:1/x"}, 2, "not a kafka:// URL"),
        (("topics", "--json"), {"REPL_LOG_URL": "kafka://127.0.0.1:1/x?timeout_ms=1000"}, 1, "nobody listens"),
        (("serve",), {"REPL_LOG_URL": "kafka://127.0.0.1:1/x?timeout_ms=1000"}, 1, "nobody listens"),
        (("versions", "show"), {}, 2, "Missing argument"),
        (("no-such-command",), {}, 2, "No such command"),
    ],
    ids=str,
)
def test_an_error_is_one_message_and_a_status(
    words: tuple[str, ...], environment: dict[str, str], status: int, says: str, data_dir: Path, root: Path
) -> None:
    more = ["--data-dir", str(data_dir)] if len(words) > 1 or words[0] == "config" else []
    done = repl(*words, *more, cwd=root, **environment)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
