"""A real Redis of one test: started at once, killed and restarted by it. The starter is `deploy/local/servers.py`."""

from __future__ import annotations

from pathlib import Path

from deploy.local.servers import Redis, ServerError
from tests.conftest import unavailable


class RedisServer(Redis):
    """Started where it is made; a failure in CI, a skip elsewhere, where it cannot be."""

    def __init__(self, directory: Path, *options: str, password: str | None = None) -> None:
        super().__init__(directory, options=("--save", "", *options), password=password)
        try:
            self.start()
        except ServerError as error:
            unavailable(str(error))
