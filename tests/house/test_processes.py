"""Child processes kept as one: started, watched, ended; a taken port is named with its remedy."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from features.errors import NotReady, ReplError, SettingsError
from service.processes import Processes, free_port

WAITS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
FAILS = [sys.executable, "-c", "import sys; print('no base model here', file=sys.stderr); sys.exit(3)"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_leaving_ends_every_child(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("one", WAITS)
        processes.start("two", WAITS)
        pids = processes.pids()
        assert processes.wait_until(lambda: all(map(alive, pids.values())), 10)
    assert not any(alive(pid) for pid in pids.values())


def test_a_child_that_ends_is_named_with_its_last_words(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("one", WAITS)
        pids = processes.pids()
        processes.start("two", FAILS)
        with pytest.raises(ReplError, match=r"(?s)two ended by itself \(exit status 3\).*no base model"):
            processes.watch()
    assert not alive(pids["one"])


def test_a_killed_child_is_said_to_be_killed(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("one", WAITS)
        os.kill(processes.pids()["one"], signal.SIGKILL)
        with pytest.raises(ReplError, match="killed by SIGKILL"):
            processes.watch()


def test_a_signal_ends_the_watch(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("one", WAITS)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        processes.watch()
    assert not alive(processes.pids()["one"])


def test_what_is_never_ready_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("one", WAITS)
        assert not processes.wait_until(lambda: False, 0.2)
        with pytest.raises(NotReady, match="it does not answer after"):
            processes.wait_until(lambda: False, 0.2, "it does not answer")


def test_children_end_with_a_parent_that_was_killed(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from service.processes import Processes\n"
        f"with Processes(Path({str(tmp_path)!r})) as p:\n"
        f"    p.start('child', {WAITS!r})\n"
        f"    Path({str(tmp_path / 'pid')!r}).write_text(str(p.pids()['child']))\n"
        "    time.sleep(60)\n"
    )
    import subprocess

    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_a_taken_port_is_named_with_its_remedy() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(SettingsError, match=f"make run PORT={port + 1}"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0
