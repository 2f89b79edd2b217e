"""Several bases in one ranker: which answers whom, what is served while one is loaded, what is dropped."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from features.errors import ArtifactError
from features.keys import actor_key
from features.records import ServedRecord
from service import base_loader
from service.artifact import Artifact, load_artifact
from service.base_fetch import KEPT, fetch, tidy
from service.bases import BUCKETS, bucket
from service.testkit import BASE, ReplService
from service.weight_store import Beside, Version, decode_weights, encode_weights
from tests.second_base import second_base

ITEMS = [f"i{k}" for k in range(30)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    return load_artifact(BASE), second_base(tmp_path_factory.mktemp("second") / "base")


@pytest.fixture
def shop(repl_service: ReplService) -> ReplService:
    repl_service.events(*(repl_service.item(one, title=f"lamp {one}") for one in ITEMS))
    repl_service.settle()
    return repl_service


def weights_of(base: Artifact, more: float) -> bytes:
    """The base's prior with another intercept."""
    heads = [base.prior[head][0].copy() for head in ("click", "purchase")]
    heads[0][base.layout_names.index("intercept")] += more
    return encode_weights(heads[0], heads[1])


def publish(shop: ReplService, base: Artifact, beside: Artifact | None = None, percent: float = 0.0) -> int:
    """A version of this base, with weights of its own, and the other one beside it."""
    latest = shop.service.store.latest()
    v, now = 1 if latest is None else latest.v + 1, shop.clock.now
    other = None
    if beside is not None:
        other = Beside(beside.sha256, str(beside.dir), weights_of(beside, -1.0 * v), v, now, True, percent)
    version = Version(
        v, base.sha256, "push", v, weights_of(base, 0.1 * v), {}, now, now, None, f"test-{v}", now,
        url=str(base.dir), beside=other,
    )  # fmt: skip
    shop.service.store.commit(version, b"")
    until(lambda: shop.service.running.replica.snapshot.version == v)
    return v


def until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def loaded(shop: ReplService) -> list[str]:
    found: list[str] = shop.call("GET", "/v1/status")[1]["bases"]["loaded"]
    return found


def test_a_promoted_base_answers_once_it_is_loaded_and_the_old_pair_until_then(
    shop: ReplService, bases: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = bases
    may = threading.Event()
    monkeypatch.setattr(base_loader, "fetch", lambda *words: may.wait(30) and fetch(*words))
    publish(shop, new, beside=old)
    answer = shop.rank(ITEMS, user="anna", explain=True)
    assert (answer["base"], answer["weights_version"]) == (old.sha256, 1)
    wanted = decode_weights(weights_of(old, -1.0))["click"][old.layout_names.index("intercept")]
    terms = {term["name"]: term["weight"] for term in answer["explain"][0]["terms"]}
    assert terms["intercept"] == pytest.approx(wanted), "the old pair's weights of this version"
    may.set()
    until(lambda: shop.rank(ITEMS, user="anna")["base"] == new.sha256)
    assert loaded(shop) == sorted([old.sha256, new.sha256])
    publish(shop, old, beside=new)
    assert shop.rank(ITEMS, user="anna")["base"] == old.sha256, "back at once"


def test_after_a_restart_the_old_pair_answers_until_the_promoted_base_is_loaded_again(
    shop: ReplService, bases: tuple[Artifact, Artifact]
) -> None:
    old, new = bases
    publish(shop, new, beside=old)
    until(lambda: shop.rank(ITEMS, user="anna")["base"] == new.sha256)
    shop.restart()
    first = shop.rank(ITEMS, user="anna")
    assert first["base"] in (old.sha256, new.sha256)
    assert first["weights_version"] == 1, "never the prior: both pairs stand in the version"
    until(lambda: shop.rank(ITEMS, user="anna")["base"] == new.sha256)
    assert shop.service.running.engine.vectors.encoded == 0, "its vectors lie on disk"


def test_part_of_the_users_by_their_hash(shop: ReplService, bases: tuple[Artifact, Artifact]) -> None:
    old, new = bases
    publish(shop, old, beside=new, percent=40.0)
    until(lambda: new.sha256 in loaded(shop))
    users = [f"user-{k}" for k in range(200)]
    chosen = {user for user in users if shop.rank(ITEMS[:3], user=user)["base"] == new.sha256}
    assert chosen == {user for user in users if bucket(new.sha256, actor_key(user, None)) < 0.4 * BUCKETS}
    assert 50 < len(chosen) < 110
    assert shop.rank(ITEMS[:3])["base"] == old.sha256, "nobody in particular"
    publish(shop, old, beside=new, percent=80.0)
    more = {user for user in users if shop.rank(ITEMS[:3], user=user)["base"] == new.sha256}
    assert chosen < more, "who is in stays in"


def test_every_request_path_follows_the_base(shop: ReplService, bases: tuple[Artifact, Artifact]) -> None:
    """Rank, retrieve, embeddings, and what is encoded later: each by the base that answers."""
    old, new = bases
    publish(shop, old, beside=new)
    until(lambda: new.sha256 in loaded(shop))
    before = shop.call("POST", "/v1/embeddings", {"items": ["i1"]})[1]["items"]["coarse"]
    publish(shop, new, beside=old)
    assert shop.retrieve(user="anna", top_k=5)["base"] == new.sha256
    after = shop.call("POST", "/v1/embeddings", {"items": ["i1"]})[1]["items"]["coarse"]
    assert before != after
    shop.events(shop.item("late", title="lamp late"))
    shop.settle()
    engines = [one.engine for one in shop.service.running.bases.loaded.values()]
    for engine in engines:
        row = int(engine.catalogue.rows(["late"])[0])
        until(lambda engine=engine, row=row: not np.array_equal(engine.vectors.tower[row], engine.vectors.unknown[0]))  # type: ignore[misc]
    for base in (new, old):
        publish(shop, base, beside=old if base is new else new)
        shop.rank(["late", *ITEMS], user="carl")
    shop.settle()
    records = [ServedRecord.from_bytes(one.body) for one in shop.service.log.read("served", 0)][-2:]
    assert [one.base for one in records] == [new.sha256, old.sha256]
    first, second = (dict(zip(one.items, one.z_rows(), strict=True)) for one in records)
    h = new.manifest.hidden
    assert (first["late"][:h] != second["late"][:h]).any(), "hidden is each base's own"


def test_a_base_that_nobody_names_any_more_is_let_go(
    shop: ReplService, bases: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_loader, "GRACE_SECONDS", 0.2)
    old, new = bases
    publish(shop, new, beside=old)
    until(lambda: new.sha256 in loaded(shop))
    publish(shop, new)
    until(lambda: loaded(shop) == [new.sha256])
    assert shop.rank(ITEMS, user="anna")["base"] == new.sha256
    until(lambda: [one.name for one in (shop.settings.data_dir / "vectors").iterdir()] == [new.sha256])
    publish(shop, old, beside=new)
    until(lambda: shop.rank(ITEMS, user="anna")["base"] == old.sha256)


def test_a_base_that_cannot_be_had_leaves_the_pair_that_is_there(
    shop: ReplService, bases: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    old, new = bases
    damaged = tmp_path / "damaged"
    shutil.copytree(new.dir, damaged)
    tables = damaged / "tables.safetensors"
    tables.write_bytes(tables.read_bytes()[:-1] + b"x")
    now = shop.clock.now
    version = Version(
        1, old.sha256, "push", 1, weights_of(old, 0.1), {}, now, now, None, "x", now,
        beside=Beside(new.sha256, str(damaged), weights_of(new, 0.0), 1, now, True, 50.0),
    )  # fmt: skip
    shop.service.store.commit(version, b"")
    until(lambda: shop.call("GET", "/v1/status")[1]["bases"]["failed"] is not None)
    assert "tables.safetensors has sha256" in shop.call("GET", "/v1/status")[1]["bases"]["failed"]
    assert {shop.rank(ITEMS, user=f"u{k}")["base"] for k in range(20)} == {old.sha256}
    assert not list((shop.settings.data_dir / "base").iterdir()), "nothing half fetched stays"


@pytest.fixture
def server(bases: tuple[Artifact, Artifact]) -> Iterator[str]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(bases[1].dir))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


def test_fetched_over_http_and_checked(server: str, bases: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    new = bases[1]
    assert fetch(server, tmp_path, new.sha256).sha256 == new.sha256
    assert [one.name for one in tmp_path.iterdir()] == [new.sha256]
    assert fetch("", tmp_path, new.sha256).sha256 == new.sha256, "it is here"
    for k in range(KEPT + 3):
        (tmp_path / f"old-{k}").mkdir()
        (tmp_path / f"old-{k}" / "manifest.json").touch()
        os.utime(tmp_path / f"old-{k}", (k, k))
    assert sorted(tidy(tmp_path, {"old-0"})) == ["old-1", "old-2", "old-3"], "the oldest but those in use"
    with pytest.raises(ArtifactError, match="holds base"):
        fetch(server, tmp_path, "f" * 64)
    with pytest.raises(ArtifactError, match="cannot be read"):
        fetch(server + "/nowhere", tmp_path)
    with pytest.raises(ArtifactError, match="not from s3"):
        fetch("s3://bucket/base", tmp_path)
