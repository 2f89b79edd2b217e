"""From a container's addresses and paths to those of this machine: the rules of the stack without containers.

1. `SERVICE:PORT` of another service becomes `127.0.0.1:PORT HERE`.
2. In a service's own words `0.0.0.0:PORT`, `127.0.0.1:PORT` (or `/PORT`) and a value that is just PORT become its port
   here.
3. Any other `0.0.0.0` becomes `127.0.0.1`: nothing here listens beyond this machine.
4. A value that is a mounted path, or lies below one, becomes the path of the volume or of the mounted file here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from deploy.local.compose import Service

LOOPBACK = "127.0.0.1"
Ports = Mapping[str, Mapping[int, int]]
"""service → port in its container → port here."""


class Places:
    """The rules for one stack. `volumes`: where named volumes lie; `root`: where paths of the file begin."""

    def __init__(self, root: Path, volumes: Path, ports: Ports) -> None:
        self._root, self._volumes, self._ports = root, volumes, ports
        names = "|".join(re.escape(name) for name in ports)
        self._address = re.compile(rf"(?<![\w.-])({names}|0\.0\.0\.0|127\.0\.0\.1)([:/])(\d+)(?!\d)")

    def value(self, service: Service, text: str) -> str:
        """One value or argument of a service, as it is here."""
        own = self._ports.get(service.name, {})
        if text.isdigit():
            return str(own.get(int(text), text))

        def here(found: re.Match[str]) -> str:
            host, between, port = found[1], found[2], int(found[3])
            return f"{LOOPBACK}{between}{self._ports.get(host, own).get(port, port)}"

        return self._path(service, self._address.sub(here, text).replace("0.0.0.0", LOOPBACK))

    def _path(self, service: Service, text: str) -> str:
        for inside in sorted(service.mounts, key=len, reverse=True):
            if text == inside or text.startswith(f"{inside}/"):
                return str(self.mounted(service, inside)) + text[len(inside) :]
        return text

    def mounted(self, service: Service, inside: str) -> Path:
        """The path here of what a service finds at `inside`."""
        source = service.mounts[inside]
        return (self._root / source).resolve() if source.startswith((".", "/")) else self._volumes / source

    def volumes(self, service: Service) -> list[Path]:
        """Where the named volumes of a service lie."""
        return [self._volumes / source for source in service.mounts.values() if not source.startswith((".", "/"))]

    def environment(self, service: Service) -> dict[str, str]:
        """The service's environment, as it is here."""
        return {name: self.value(service, str(text)) for name, text in service.environment.items()}

    def arguments(self, service: Service, words: tuple[str, ...]) -> tuple[str, ...]:
        """A command of the service, as it is here but for its program."""
        return tuple(self.value(service, word) for word in words)
