"""The torch network and its served twin agree; the sparse first layer moves only what it touched; losses by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from features import coding
from features.keys import actor_key, item_key, text_key
from features.words import word_keys
from service.artifact import load_artifact
from service.scorer import ItemInput, Scorer
from trainer.losses import ctcvr_loss, sampled_softmax
from trainer.network import Bag, Histories, Network, NetworkConfig
from trainer.untrained import untrained

ROWS = 256


def bag(parts: coding.Keys, k: int) -> Bag:
    made = coding.code_bags(parts, k, ROWS)
    return Bag(torch.from_numpy(made.rows), torch.from_numpy(made.values), torch.from_numpy(made.starts[:-1]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Scorer]:
    """A network whose weights were rounded to f16, and the scorer of the same."""
    place = Path(tmp_path_factory.mktemp("base")) / "base"
    untrained(place, seed=3)
    torch.manual_seed(3)
    network = Network(NetworkConfig(ROWS, ROWS, ROWS))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    return network.eval(), Scorer(load_artifact(place))


ITEMS = [
    ItemInput(f"i{k}", f"white metal lantern {k % 7}", f"c{k % 3}", None if k % 2 else "acme")
    for k in range(60)
]


def torch_items(network: Network) -> torch.Tensor:
    ids = np.array([item_key(item.id) for item in ITEMS], np.uint64)
    categories = np.array([text_key("category", item.category or "") for item in ITEMS], np.uint64)
    brands = np.array([text_key("brand", item.brand) if item.brand else 0 for item in ITEMS], np.uint64)
    nothing = np.zeros((len(ITEMS), 4))
    parts = coding.item_parts(ids, categories, brands, nothing.astype(np.uint64), nothing.astype(np.float32))
    titles = coding.word_parts([word_keys(item.title) for item in ITEMS])
    return network.items(bag(parts, coding.K_ID), bag(titles, coding.K_WORD))


@pytest.mark.parametrize("length", [0, 1, 50])
@pytest.mark.parametrize("text", [None, "red lanterns"])
def test_served_hidden_vectors_are_torchs(
    pair: tuple[Network, Scorer], length: int, text: str | None
) -> None:
    network, scorer = pair
    served = scorer.encode_items(ITEMS)
    kinds = np.arange(length) % 5 + 1
    times = np.cumsum(np.arange(length) ** 4 + 1)
    user = scorer.encode_user("u1", served.tower[:length], kinds.astype(np.uint8), times)
    query = scorer.encode_query(text)
    with torch.no_grad():
        items = torch_items(network)
        steps = torch.cat([torch.zeros(1, 64), items[:length]])[None]
        columns = [
            np.concatenate([[0], c]) for c in (kinds, coding.gap_buckets(times), np.arange(length, 0, -1))
        ]
        history = Histories(steps, *(torch.from_numpy(c)[None] for c in columns), torch.tensor([length + 1]))
        own = coding.user_parts(np.array([actor_key("u1", None) if length else 0], np.uint64))
        users = network.users(bag(own, coding.K_ID), history)
        words = bag(coding.word_parts([word_keys(text)]), coding.K_WORD)
        queries = network.queries(words) if text else torch.zeros(1, 64)
        rows = len(ITEMS)
        hidden = network.fine(users.expand(rows, -1), queries.expand(rows, -1), items)
        coarse = network.coarse(users, queries, items)[0]
    assert np.abs(served.tower - items.numpy()).max() <= 1e-5
    assert np.abs(user.tower - users[0].numpy()).max() <= 1e-5
    assert np.abs(scorer.hidden(served.tower, user, query) - hidden.numpy()).max() <= 1e-5
    assert np.abs(scorer.coarse(served.coarse, served.bias, user, query) - coarse.numpy()).max() <= 1e-5
    assert hidden.abs().max() > 1e-3


def test_gradients_of_the_first_layer_are_sparse(pair: tuple[Network, Scorer]) -> None:
    network = Network(NetworkConfig(ROWS, 100_000, ROWS))
    torch_items_bag = coding.user_parts(np.array([5, 7], np.uint64))
    made = coding.code_bags(torch_items_bag, coding.K_ID, 100_000)
    keys = Bag(torch.from_numpy(made.rows), torch.from_numpy(made.values), torch.from_numpy(made.starts[:-1]))
    network.items(
        keys, bag(coding.word_parts([word_keys("a"), word_keys("b")]), coding.K_WORD)
    ).sum().backward()
    gradient = network.item_table.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) == set(made.rows.tolist())


def test_without_a_query_its_tower_learns_nothing() -> None:
    network = Network(NetworkConfig(ROWS, ROWS, ROWS))
    words = bag(coding.word_parts([np.empty(0, np.uint64)]), coding.K_WORD)
    queries = network.queries(words) * torch.zeros(1, 1)  # as trainer/losses.py does for recommendation
    network.fine(torch.ones(1, 64), queries, torch.ones(1, 64)).sum().backward()
    for layer in (network.query_1, network.query_2):
        assert layer.weight.grad is not None
        assert not layer.weight.grad.any()
        assert not layer.bias.grad.any()


def test_ctcvr_is_the_product_of_both_heads() -> None:
    click, purchase = torch.tensor([0.3, -2.0, 40.0]), torch.tensor([-1.0, 0.5, 40.0])
    label = torch.tensor([1.0, 0.0, 1.0])
    p = torch.sigmoid(click) * torch.sigmoid(purchase)
    expected = torch.nn.functional.binary_cross_entropy(p, label)
    assert ctcvr_loss(click, purchase, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_log_q_correction_makes_the_sampled_softmax_the_full_one() -> None:
    """With every item as a negative, q uniform and the positive left out, it is the cross-entropy over all items."""
    scores = torch.randn(1, 50)
    out = torch.zeros(1, 50, dtype=torch.bool)
    out[0, 11] = True
    zero = torch.zeros(50)
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([11]))
    got = sampled_softmax(scores[:, 11], torch.zeros(1), scores, zero, out)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    shifted = sampled_softmax(scores[:, 11], torch.zeros(1) + 2, scores, zero + 2, out)
    assert shifted.item() == pytest.approx(expected.item(), rel=1e-5)
