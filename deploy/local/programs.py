"""Which program of this machine stands for an image of docker-compose.yml, and how it is called. It starts none.

Our own images are this interpreter; Redis and HAProxy are the system's; Apache Kafka is the one of `servers.py`, with
the properties that its image makes of the same environment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.compose import Service
from deploy.local.places import Places
from deploy.local.servers import JAVA, ServerError, format_storage, java_command, program

PACKAGES = {"redis": "redis-server", "haproxy": "haproxy", "apache/kafka": "default-jre-headless maven"}
KAFKA = "apache/kafka"
FETCH = (
    "import sys, urllib.request; urllib.request.urlopen(sys.argv[-1], timeout=float(sys.argv[1])).read(65536)"
)
_NO_PROPERTY = re.compile(r"(HEAP|LOG4J|JMX|JVM_PERFORMANCE|GC_LOG)_OPTS|OPTS|VERSION|LOG4J_.*|TOOLS_LOG4J_.*|JMX_.*")


def kind(service: Service) -> str:
    """The image without its tag."""
    return service.image.rpartition(":")[0]


def missing(service: Service) -> str | None:
    """The Debian packages that have to be installed before this service can run here; None: none, it can.

    Raises ServerError for an image that nothing here stands for.
    """
    if service.built:
        return None
    name = kind(service)
    needed = {KAFKA: ["java"]}.get(name, [service.command[0] if service.command else name])
    if name not in PACKAGES:
        raise ServerError(f"{service.name}: nothing here stands for the image {service.image}")
    return None if all(shutil.which(one) for one in needed) else PACKAGES[name]


def command(service: Service, places: Places, home: Path) -> tuple[str, ...]:
    """What to run for a service in its directory. Raises ServerError."""
    words = places.arguments(service, service.command)
    if service.built:
        if words[0] != "repl-ranker":
            raise ServerError(f"{service.name} runs {words[0]!r}, which has no counterpart here")
        return (sys.executable, "-m", "trainer.cli", *words[1:])
    if kind(service) == KAFKA:
        return _kafka(service, places, home)
    return (program(words[0], PACKAGES[kind(service)]), *words[1:])


def environment(service: Service, places: Places) -> dict[str, str]:
    """This process's environment without settings of ours, and the service's own."""
    outside = {name: text for name, text in os.environ.items() if not name.startswith(("REPL_", "KAFKA_"))}
    return outside | places.environment(service)


def check(service: Service, places: Places) -> tuple[str, ...]:
    """The service's health check as a command of this machine. Raises ServerError."""
    assert service.health is not None
    name, *rest = places.arguments(service, service.health.test)
    if name == "python":
        return (sys.executable, *rest)
    if name == "wget":  # its image has no Python, and not every machine has a wget
        return (sys.executable, "-c", FETCH, str(service.health.timeout), *rest)
    return (program(name, "redis-tools" if name == "redis-cli" else name), *rest)


def properties(environment: Mapping[str, str]) -> dict[str, str]:
    """What apache/kafka makes of its environment: KAFKA_LOG_DIRS is log.dirs; `___` is a dash, `__` an underscore."""
    names = [name for name in environment if name.startswith("KAFKA_")]
    named = {name: name.removeprefix("KAFKA_") for name in names}
    return {_property(key): environment[name] for name, key in named.items() if not _NO_PROPERTY.fullmatch(key)}


def _property(name: str) -> str:
    marks = {"_": ".", "__": "_", "___": "-"}
    return re.sub(r"_+", lambda run: marks.get(run[0], run[0]), name).lower()


def _kafka(service: Service, places: Places, home: Path) -> tuple[str, ...]:
    given = places.environment(service)
    file, wanted = home / "server.properties", properties(given)
    home.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{name}={text}\n" for name, text in wanted.items()), encoding="utf-8")
    java = java_command(_java(given.get("KAFKA_HEAP_OPTS", "").split()))
    if not Path(wanted["log.dirs"], "meta.properties").exists():
        format_storage(java, file, given["CLUSTER_ID"], {})
    return (*java, "kafka.Kafka", str(file))


def _java(heap: Sequence[str]) -> tuple[str, ...]:
    return (*heap, *JAVA[1:]) if heap else JAVA
