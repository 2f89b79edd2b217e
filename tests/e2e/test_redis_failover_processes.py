"""Ranker and learner as processes on a Redis Cluster and behind sentinels, through kill -9 of the primary.

The ranker answers throughout; learning goes on at the new primary, and no version is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from service.weight_store import open_weight_store
from tests.e2e.test_redis_processes import click
from tests.e2e.test_two_processes import PATIENCE, Shop
from tests.redis_several import DURABLE, Cluster, Sentinels, tenant_on, until

WORDS = (Sentinels.password, Sentinels.sentinel_password)


@pytest.fixture(params=[Cluster, Sentinels])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with request.param(tmp_path / "redis", DURABLE) as made:
        yield made


@pytest.mark.timeout(240)
def test_learning_goes_on_at_the_new_primary(servers: Any, tmp_path: Path) -> None:
    place, tenant = tmp_path / "data", tenant_on()
    place.mkdir()
    shop = Shop(place, REPL_WEIGHTS_URL=servers.url, REPL_USER_STATES_URL=servers.url, REPL_TENANT=tenant)
    try:
        shop.open()
        before = shop.terms("i7")[2]
        click(shop, "anna", "i7")
        shop.until(lambda: shop.terms("i7")[2] != before, 2 * PATIENCE, "weights follow")
        until(servers.replicated, "the replica has all")
        former = servers.primary_of(tenant)
        former.kill()
        click(shop, "bert", "i3")
        until(lambda: servers.primary_of(tenant) is not former, "another is the primary")
        shop.until(lambda: not shop.rank("bert")["stale"], 60, "both have found it")
        weights = shop.terms("i5")[2]
        click(shop, "carl", "i5")
        shop.until(lambda: shop.terms("i5")[2] != weights, 60, "learning goes on")
    finally:
        shop.end()
    settings = Settings.model_validate({"data_dir": place, "weights_url": servers.url, "tenant": tenant})
    with closing(open_weight_store(settings)) as store:
        versions = store.versions(10_000)
    numbers, offsets = [one.v for one in versions], [one.offsets["event/0"] for one in versions]
    assert numbers == list(range(numbers[0], 0, -1)), "no version is missing"
    assert offsets == sorted(offsets, reverse=True)
    assert not any(word in path.read_text() for path in tmp_path.glob("*.log") for word in WORDS)
