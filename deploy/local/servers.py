"""Starts a real Apache Kafka (one node, KRaft) and a real Redis on this machine: for tests, and for a stack without
containers (`stack.py`). It ends only what it started, installs nothing, and knows nothing of the product.

    with Kafka(home) as kafka, Redis(home2) as redis: ...     # kafka.address "127.0.0.1:PORT", redis.url
    python deploy/local/servers.py                            # both, in a directory that goes, until Ctrl-C

The broker's jars come from Maven by `kafka/pom.xml`, once, into `build/kafka-<hash of the pom>` of the source tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
FORGETFUL = ("--save", "", "--appendonly", "no")
START_SECONDS = 60.0
STOP_SECONDS = 20.0
FETCH_SECONDS = 600.0
JAVA = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_TAIL = 2_000


class ServerError(Exception):
    """A server cannot be started: says which, why, and what to do."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def program(name: str, package: str) -> str:
    """The path of a program. Raises ServerError with the line that installs it."""
    found = shutil.which(name)
    if found is None:
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise ServerError(f"{name} is not installed. On Debian or Ubuntu: {sudo}apt-get install -y {package}")
    return found


class Server:
    """A process of ours with a directory of its own. `start` returns once it answers."""

    name = "server"

    def __init__(self, home: Path) -> None:
        """home: made where it is missing; data, settings and output.txt lie there, and stay when it ends."""
        self.home = home
        self.output = home / "output.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> Self:
        """Start (again) on the same ports and data. Raises ServerError within START_SECONDS."""
        if self.pid is not None:
            return self
        self.home.mkdir(parents=True, exist_ok=True)
        command = self._command()
        with self.output.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=self.home, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                why = f"did not answer in {START_SECONDS:g} s"
                if ended:
                    why = f"ended with status {self._process.returncode}"
                raise ServerError(f"{self.name} {why}; the end of {self.output}:\n{self._tail()}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_SECONDS; returns once it has ended."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9; returns once it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def signal(self, number: int) -> None:
        """Send a signal, SIGSTOP and SIGCONT for instance."""
        if self._process is not None and self.pid is not None:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _tail(self) -> str:
        return self.output.read_bytes()[-_TAIL:].decode("utf-8", "replace") if self.output.exists() else ""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class Redis(Server):
    """`redis-server`: `url` is redis://127.0.0.1:PORT. Keeps nothing on disk unless `options` say so."""

    name = "redis-server"

    def __init__(
        self, home: Path, port: int = 0, options: Sequence[str] = FORGETFUL, password: str | None = None
    ) -> None:
        super().__init__(home)
        self.port = port or free_ports(1)[0]
        secret = f":{password}@" if password else ""
        self.url = f"redis://{secret}127.0.0.1:{self.port}"
        self._options = (*options, "--requirepass", password) if password else tuple(options)

    def _command(self) -> Sequence[str]:
        where = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.home), "--daemonize", "no")
        return (program("redis-server", "redis-server"), *where, *self._options)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class Kafka(Server):
    """Apache Kafka, one node: `address` is 127.0.0.1:PORT; with `users`, `sasl_address` asks for PLAIN or SCRAM."""

    name = "Apache Kafka"

    def __init__(self, home: Path, port: int = 0, users: Mapping[str, str] | None = None) -> None:
        """users: name → password, known to the second listener (letters and digits only)."""
        super().__init__(home)
        spare, self._controller_port, self._sasl_port = free_ports(3)
        self.port = port or spare
        self.address = f"127.0.0.1:{self.port}"
        self.sasl_address = f"127.0.0.1:{self._sasl_port}" if users else None
        self._users = dict(users or {})

    def _command(self) -> Sequence[str]:
        java = java_command()
        properties, data = self.home / "server.properties", self.home / "data"
        properties.write_text(self._properties(data), encoding="utf-8")
        if not (data / "meta.properties").exists():
            format_storage(java, properties, cluster_id(), self._users)
        return (*java, "kafka.Kafka", str(properties))

    def _properties(self, data: Path) -> str:
        plain = "".join(f' user_{name}="{password}"' for name, password in self._users.items())
        prefix, module = "listener.name.sasl_plaintext.", "org.apache.kafka.common.security"
        sasl = (
            f"{prefix}sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n"
            f"{prefix}plain.sasl.jaas.config={module}.plain.PlainLoginModule required{plain};\n"
            f"{prefix}scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
            f"{prefix}scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
        )
        return (HERE / "kafka/server.properties").read_text(encoding="utf-8").format(
            port=self.port,
            controller_port=self._controller_port,
            data=data,
            sasl_listener=f",SASL_PLAINTEXT://127.0.0.1:{self._sasl_port}" if self._users else "",
            sasl=sasl if self._users else "",
        )

    def _answers(self) -> bool:
        return b"Kafka Server started" in self.output.read_bytes()


def java_command(options: Sequence[str] = JAVA) -> tuple[str, ...]:
    """Java with the broker's jars, for a class of theirs. Raises ServerError."""
    return (program("java", "default-jre-headless"), *options, "-cp", f"{jars()}/*")


def cluster_id() -> str:
    """A fresh one."""
    cluster = "-"
    while cluster.startswith("-"):  # StorageTool would take it for an option
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return cluster


def format_storage(java: Sequence[str], properties: Path, cluster: str, users: Mapping[str, str]) -> None:
    """Prepare an empty `log.dirs` for a broker with these users (name → password). Raises ServerError."""
    command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    for name, password in users.items():
        for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            command += ["--add-scram", f"{kind}=[name={name},password={password}]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    if done.returncode:
        raise ServerError(f"Kafka's storage cannot be formatted:\n{(done.stdout + done.stderr)[-_TAIL:]}")


def jars() -> Path:
    """The directory with the broker's jars; fetched with Maven the first time. Raises ServerError."""
    return fetched(HERE / "kafka/pom.xml", "kafka", "kafka_*.jar")


def fetched(pom: Path, name: str, proof: str) -> Path:
    """The directory in `build/` with what a pom depends on; fetched with Maven the first time. proof: a file of it.

    Raises ServerError.
    """
    libs = BUILD / f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    if libs.exists():
        return libs
    maven = program("mvn", "maven default-jre-headless")
    print(f"fetching {name} with Maven into {libs.name} (once) …", file=sys.stderr, flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=BUILD))
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={place}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    if done.returncode or not any(place.glob(proof)):
        shutil.rmtree(place, ignore_errors=True)
        raise ServerError(f"Maven cannot fetch {name}: is the network there?\n{(done.stdout + done.stderr)[-_TAIL:]}")
    try:
        place.rename(libs)
    except OSError:  # another process was first
        shutil.rmtree(place, ignore_errors=True)
    return libs


@contextlib.contextmanager
def both() -> Iterator[tuple[Kafka, Redis]]:
    """Kafka and Redis in a temporary directory that goes when they end. Raises ServerError."""
    with (
        tempfile.TemporaryDirectory(prefix="servers-", ignore_cleanup_errors=True) as home,
        Redis(Path(home, "redis")) as redis,
        Kafka(Path(home, "kafka")) as kafka,
    ):
        yield kafka, redis


def main() -> None:
    """Both until Ctrl-C or SIGTERM; the two lines on stdout are for the shell of whoever runs tests."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), both() as (kafka, redis):
        print(f"export REPL_TEST_KAFKA={kafka.address}\nexport REPL_TEST_REDIS={redis.url}", flush=True)
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except ServerError as error:
        raise SystemExit(str(error)) from None
