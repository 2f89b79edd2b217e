"""Word-segmentation coding: a text becomes words, the words become keys, shared by query and title.

NFKC and casefold first. Latin words are stemmed (snowball), Chinese characters are segmented (rjieba, whose
dictionary is loaded at the first such text), other scripts are split where the script or a space ends a
word. Numbers stay whole. No vocabulary and no stop words; the order of words is dropped by the coding, not
here.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np

from features.coding import U64
from features.keys import text_key

MAX_WORDS = 32
"""Words of one text that are coded, from its start; what follows is ignored."""

_KEPT = 20_000
"""Words whose stem and key are remembered, about 200 bytes each."""

STEMMERS = {
    "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish", "fi": "finnish",
    "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sv": "swedish", "tr": "turkish",
}  # fmt: skip

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3040-\u30ff"
_TOKEN = re.compile(rf"([{_HAN}]+)|([{_KANA}]+)|((?:(?![{_HAN}{_KANA}])[^\W_])+)")

_ASCII = re.compile("[a-z0-9]+")


_STEMMING = threading.Lock()
"""A stemmer keeps the word in itself while it works: two threads in one mix their words up."""


@lru_cache(_KEPT)
def _stem(word: str, language: str) -> str:
    with _STEMMING:
        return _stemmer(language)(word)


@cache
def _stemmer(language: str) -> Callable[[str], str]:
    import snowballstemmer  # 0.2 s: not before the first text

    stem: Callable[[str], str] = snowballstemmer.stemmer(STEMMERS[language]).stemWord
    return stem


@cache
def _segmenter() -> Callable[[str], list[str]]:
    import rjieba  # loads its dictionary: not before the first Chinese text

    cut: Callable[[str], list[str]] = rjieba.cut
    return cut


def one_text(value: Any) -> str | None:
    """A field value as one text: a list gives its first element, numbers their decimal form; None if empty."""
    if isinstance(value, list):
        value = value[0] if value else None
    return None if value is None or value == "" else str(value)


def words(text: str, language: str = "en") -> list[str]:
    """The words of a text, at most MAX_WORDS, each once, in order of first appearance.

    `language` (two letters) names the stemmer; one that has none leaves words as they are.
    """
    found: dict[str, None] = {}
    if text.isascii():  # most titles: the same words, three times as fast
        for word in _ASCII.findall(text[:4_096].lower()):
            found[_stem(word, language) if language in STEMMERS else word] = None
            if len(found) >= MAX_WORDS:
                break
        return list(found)
    for match in _TOKEN.finditer(unicodedata.normalize("NFKC", text[:4_096]).casefold()):
        han, _, word = match.groups()
        if han:
            found.update(dict.fromkeys(_segmenter()(han)))
        elif word and language in STEMMERS:
            found[_stem(word, language)] = None
        else:
            found[match.group()] = None
        if len(found) >= MAX_WORDS:
            break
    return list(found)[:MAX_WORDS]


@lru_cache(_KEPT)
def _key(word: str) -> int:
    return text_key("word", word)


def word_keys(text: str | None, language: str = "en") -> U64:
    """Keys u64[m] of the words of a text; empty for None or a text without words."""
    found = words(text, language) if text else []
    return np.fromiter((_key(word) for word in found), np.uint64, len(found))
