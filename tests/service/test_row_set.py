"""Rows that wait are each taken once, and cost what is taken."""

from __future__ import annotations

import random
import time

import numpy as np

from service.row_set import RowSet


def test_it_is_a_set_and_takes_in_rounds() -> None:
    waiting = RowSet(np.array([5, 1, 5], np.int64))
    assert (len(waiting), waiting.rows().tolist()) == (2, [1, 5])
    assert waiting.take(1).tolist() == [1]
    waiting.add(np.array([0, 20_000], np.int32))
    assert waiting.take(5).tolist() == [5]
    assert waiting.take(5).tolist() == [20_000]
    assert waiting.take(5).tolist() == [0]
    assert (len(waiting), waiting.take(5).tolist()) == (0, [])


def test_any_order_of_adding_and_taking_gives_what_a_set_gives() -> None:
    rng = random.Random(5)
    waiting, held = RowSet(np.zeros(0, np.int64)), set[int]()
    for _ in range(2_000):
        if rng.random() < 0.5:
            rows = rng.sample(range(3_000), rng.randrange(20))
            waiting.add(np.array(rows, np.int64))
            held.update(rows)
        else:
            taken = waiting.take(rng.randrange(1, 30)).tolist()
            assert taken == sorted(set(taken) & held)
            assert taken or not held
            held.difference_update(taken)
        assert len(waiting) == len(held)
    assert waiting.rows().tolist() == sorted(held)


def test_a_million_waiting_rows_make_no_batch_slow() -> None:
    waiting = RowSet(np.arange(1_000_000))
    began = time.perf_counter()
    for start in range(0, 128_000, 128):
        waiting.add(np.arange(start, start + 2_000))
        waiting.take(128)
    assert time.perf_counter() - began < 1.0  # 0.05 measured; a second and a half where each takes a union
