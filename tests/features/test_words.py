"""Word segmentation: golden words, one coding for query and title, the dictionary only when it is needed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from features.words import MAX_WORDS, one_text, word_keys, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WHITE HANGING HEART T-LIGHT HOLDER", ["white", "hang", "heart", "t", "light", "holder"]),
        ("Red dresses, red DRESS!", ["red", "dress"]),
        ("红色连衣裙很好看", ["红色", "连衣裙", "很", "好看"]),
        ("iPhone15 手机壳 256GB", ["iphone15", "手机", "壳", "256gb"]),
        ("Ｆｕｌｌ　ｗｉｄｔｈ", ["full", "width"]),
        ("красное платье", ["красное", "платье"]),
        ("カメラ用バッグ", ["カメラ", "用", "バッグ"]),
        ("", []),
        ("!!! -- ...", []),
        ("snake_case v2.0 don't", ["snake", "case", "v2", "0", "don", "t"]),
    ],
)
def test_golden_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_query_meets_title() -> None:
    assert set(word_keys("lanterns")) <= set(word_keys("WHITE METAL LANTERN"))


def test_language_names_the_stemmer() -> None:
    assert words("красивые платья", "ru") == ["красив", "плат"]
    assert words("Hallen", "xx") == ["hallen"]


def test_a_text_costs_bounded_work() -> None:
    assert len(words(" ".join(f"w{k}" for k in range(10_000)))) == MAX_WORDS
    assert word_keys(None).dtype == np.uint64


def test_plain_ascii_is_read_as_any_other_text() -> None:
    rng = random.Random(3)
    for _ in range(2_000):
        text = "".join(chr(rng.randrange(128)) for _ in range(rng.randrange(60)))
        assert words(text + " ") == words(text + " \N{EM DASH}")


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (["b", "c"], "b"), (3, "3"), ([], None), ("", None), (None, None)]
)
def test_one_text(value: object, text: str | None) -> None:
    assert one_text(value) == text


def test_the_chinese_dictionary_loads_at_the_first_chinese_text() -> None:
    code = (
        "import sys; from features.words import words; words('red dress'); assert 'rjieba' not in sys.modules;"
        "words('红色'); assert 'rjieba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_do_not_mix_up_their_words() -> None:
    """A ranker stems in several threads at once: encoder, title index, user states, requests."""
    import snowballstemmer

    alone = snowballstemmer.stemmer("english").stemWord
    texts = [f"running{k}nesses categorization{k}s" for k in range(4_000)]
    wrong: list[str] = []

    def read(part: list[str]) -> None:
        for text in part:
            try:
                found: object = words(text)
            except Exception as error:  # what another thread's word made of this one
                found = error
            if found != [alone_of[word] for word in text.split()]:
                wrong.append(f"{text}: {found}")

    alone_of = {word: alone(word) for text in texts for word in text.split()}
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        threads = [threading.Thread(target=read, args=(texts[k::4],)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
