"""What a PromQL expression asks for: its metrics, and the labels it selects by. It evaluates and judges nothing."""

from __future__ import annotations

import re

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w:.])([a-zA-Z_:][a-zA-Z0-9_:]*)(?!\s*\()(?![\w:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}


def metric_names(expression: str) -> set[str]:
    """Names of the series that an expression reads."""
    text = _STRING.sub('""', expression)
    text = re.sub(r"\[[^\]]*\]", "", _GROUPING.sub("", text))
    text = re.sub(r"\{[^}]*\}", "", text)
    return {name for name in _NAME.findall(text) if name not in _WORDS and not re.fullmatch(r"[Ii]nf|[Nn]a[Nn]", name)}


def labels_selected(expression: str) -> set[tuple[str, str]]:
    """(metric, label) of every matcher in braces."""
    text = _STRING.sub('""', expression)
    found = set()
    for name, inside in _SELECTOR.findall(text):
        found |= {(name, label) for label in re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", inside)}
    return found
