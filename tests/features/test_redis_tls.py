"""TLS to real servers: one Redis, a Cluster, a primary behind a sentinel; with the right CA and a wrong one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from deploy.local.servers import FORGETFUL, Redis, ServerError, free_ports, program
from features.errors import StoreDown
from features.feature_store_redis import RedisFeatureStore
from tests.conftest import fresh_tenant, unavailable
from tests.redis_several import SLOTS, until

Start = Callable[[Redis], Any]
Places = pytest.TempPathFactory


class Certificates:
    """A CA, a certificate of 127.0.0.1 that it signed, and another CA that signed nothing."""

    def __init__(self, home: Path) -> None:
        self.home = home
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        for name in ("ca", "other"):
            files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
            self._openssl("req", "-x509", *curve, "-subj", f"/CN={name}", *files)
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1")
        self._openssl("req", "-x509", *curve, *signed, "-subj", "/CN=redis", "-keyout", "key", "-out", "cert")

    def _openssl(self, *words: str) -> None:
        done = subprocess.run([program("openssl", "openssl"), *words], cwd=self.home, capture_output=True, check=False)
        if done.returncode:
            raise ServerError(f"openssl {words[0]}: {done.stderr.decode()[-500:]}")

    @property
    def options(self) -> tuple[str, ...]:
        """Of a server that asks clients for no certificate."""
        files = {"--tls-ca-cert-file": "ca.pem", "--tls-cert-file": "cert", "--tls-key-file": "key"}
        named = (word for option, name in files.items() for word in (option, str(self.home / name)))
        return (*named, "--tls-auth-clients", "no")


class TlsRedis(Redis):
    """A Redis (or a sentinel) that speaks TLS only, on `port`."""

    def __init__(self, home: Path, certificates: Certificates, options: Sequence[str] = FORGETFUL) -> None:
        super().__init__(home, 0, (*certificates.options, *options))
        self._certificates = certificates

    def _command(self) -> Sequence[str]:
        plain = list(super()._command())
        at = plain.index("--port")
        return [*plain[:at], "--port", "0", "--tls-port", str(self.port), *plain[at + 2 :]]

    def client(self) -> Any:
        """Of redis-py, with the right CA."""
        ca = str(self._certificates.home / "ca.pem")
        return redis.Redis(host="127.0.0.1", port=self.port, ssl=True, ssl_ca_certs=ca)

    def _answers(self) -> bool:
        try:
            with closing(self.client()) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    try:
        return Certificates(tmp_path_factory.mktemp("tls"))
    except ServerError as error:
        unavailable(str(error))


@pytest.fixture(scope="module")
def servers() -> Iterator[Start]:
    """Starts servers that end with the module."""
    started: list[Redis] = []

    def start(server: Redis) -> Any:
        try:
            started.append(server.start())
        except ServerError as error:
            unavailable(str(error))
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def single(servers: Start, tmp_path_factory: Places, certificates: Certificates) -> str:
    return f"rediss://127.0.0.1:{servers(TlsRedis(tmp_path_factory.mktemp('one'), certificates)).port}/0?"


@pytest.fixture(scope="module")
def cluster(servers: Start, tmp_path_factory: Places, certificates: Certificates) -> str:
    (bus,) = free_ports(1)
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--tls-cluster", "yes", *FORGETFUL)
    server = servers(TlsRedis(tmp_path_factory.mktemp("cluster"), certificates, options))
    with closing(server.client()) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, SLOTS - 1)
        until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the Cluster is whole")
    return f"redis+cluster://127.0.0.1:{server.port}?tls=true&"


@pytest.fixture(scope="module")
def sentinel(servers: Start, tmp_path_factory: Places, certificates: Certificates) -> str:
    server = servers(TlsRedis(tmp_path_factory.mktemp("primary"), certificates))
    home = tmp_path_factory.mktemp("sentinel")
    (home / "sentinel.conf").write_text(f"sentinel monitor shop 127.0.0.1 {server.port} 1\n")

    class Sentinel(TlsRedis):
        def _command(self) -> Sequence[str]:
            name, *rest = super()._command()
            return [name, str(home / "sentinel.conf"), *rest, "--tls-replication", "yes", "--sentinel"]

    made = servers(Sentinel(home, certificates, ()))
    return f"redis+sentinel://127.0.0.1:{made.port}/shop?tls=true&"


@pytest.mark.parametrize("kind", ["single", "cluster", "sentinel"])
def test_the_right_ca_and_a_wrong_one(kind: str, request: pytest.FixtureRequest, certificates: Certificates) -> None:
    url = request.getfixturevalue(kind)
    with closing(RedisFeatureStore(f"{url}ssl_ca_certs={certificates.home / 'ca.pem'}", fresh_tenant())) as store:
        store.commit([], [], {"event/0": 7})
        assert store.offsets() == {"event/0": 7}
    with closing(RedisFeatureStore(f"{url}ssl_ca_certs={certificates.home / 'other.pem'}", fresh_tenant())) as store:
        with pytest.raises(StoreDown, match="certificate verify failed") as told:
            store.offsets()
        assert "ssl_ca_certs" in str(told.value.hint)
    with closing(RedisFeatureStore(f"{url}ssl_cert_reqs=none&ssl_check_hostname=false", fresh_tenant())) as store:
        assert store.offsets() == {}, "who wants no verification gets none"
    missing = RedisFeatureStore(f"{url}ssl_ca_certs=/no/such/file.pem", fresh_tenant())
    with closing(missing), pytest.raises(StoreDown, match="No such file"):
        missing.offsets()


def test_tls_to_a_plain_port_and_plain_to_a_tls_port(redis_url: str, single: str) -> None:
    wrong = (redis_url.replace("redis://", "rediss://"), single.replace("rediss://", "redis://"))
    for url in wrong:
        with closing(RedisFeatureStore(url.rstrip("?"), fresh_tenant(), timeout_ms=1_000)) as store:
            with pytest.raises(StoreDown) as told:
                store.offsets()
            assert "TLS" in str(told.value.hint), told.value
