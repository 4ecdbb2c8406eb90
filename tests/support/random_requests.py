"""Requests drawn by hypothesis from the whole schema: right, nearly right, and at the edges.

Most fields of most requests are in their range, so that what is drawn reaches the arithmetic.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

EDGES = (
    *(0, 1, -1, 2, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30, 10**400),
    *(0.0, -0.0, 5e-324, 1e-320, 2.2e-308, 1e-45, 1e-40, 1.2e-38, 1e-10, 1e-6, 1e-5, 1e-4, 0.01),
    *(1.0, 1.0000000000000002, 0.9999999999999999, 2.0, 100.0, 3.4e38, 1e39, 1.8e308),
    *(float("inf"), float("-inf"), float("nan")),
)
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates too
SPECIAL_TEXT = st.sampled_from(
    ["", " ", "\x00", "\ufeff", "<s>", "</s><|system|>", "<|assistant|>", "a\u0301" * 20, "😀" * 9]
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.sampled_from(EDGES), st.integers(), st.floats(), TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def fraction(low: float, high: float) -> st.SearchStrategy[float]:
    """A number in a range, often at its edges."""
    edges = [value for value in EDGES if low <= value <= high]
    return st.sampled_from(edges) | st.floats(low, high)


RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.integers(1, 4),
    "temperature": fraction(0, 2),
    "top_p": fraction(0, 1),
    "top_k": st.integers(0, 2**31) | st.integers(0, 5),
    "min_p": fraction(0, 1),
    "repetition_penalty": fraction(0.01, 100),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stop": TEXT | st.lists(TEXT, max_size=4) | st.sampled_from(["a", "\n", " "]),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "user": TEXT,
    "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
    "n": st.just(1),
    "presence_penalty": st.just(0) | fraction(-2, 2),
    "frequency_penalty": st.just(0) | fraction(-2, 2),
    "logprobs": st.booleans() | st.integers(0, 5),
    "logit_bias": st.dictionaries(TEXT, fraction(-100, 100), max_size=2),
}
CHAT: dict[str, st.SearchStrategy[Any]] = {
    "max_completion_tokens": st.integers(1, 4),
    "top_logprobs": st.integers(0, 20),
    "tools": st.lists(ANYTHING, max_size=1),
    "tool_choice": st.sampled_from(["none", "auto", "required"]),
    "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}),
    "modalities": st.just(["text"]),
    "reasoning_effort": st.sampled_from(["none", "low"]),
}
COMPLETION: dict[str, st.SearchStrategy[Any]] = {
    "echo": st.booleans(),
    "suffix": TEXT,
    "best_of": st.integers(1, 2),
}
CONTENT = (
    TEXT | SPECIAL_TEXT | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}))
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": CONTENT,
    },
    optional={"name": TEXT, "tool_calls": st.none() | st.just([]), "refusal": st.none()},
)
TURNS = st.lists(MESSAGE, max_size=4).map(lambda some: [*some, {"role": "user", "content": "Olá"}])
PROMPT = TEXT | SPECIAL_TEXT | st.lists(st.integers(0, 367), min_size=1, max_size=20)
SEARCH: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "/api/examples": {
        "query": TEXT | st.just("raposa"),
        "offset": st.integers(0, 10**9),
        "limit": st.integers(1, 50),
    },
    "/api/attribution": {"text": TEXT | st.just("a raposa mora na floresta e canta")},
}


@st.composite
def random_requests(draw: st.DrawFn, model: str) -> tuple[str, bytes]:
    """A path and a JSON body for a model of this name."""
    path = draw(
        st.sampled_from(["/v1/chat/completions", "/v1/completions"] * 4 + list(SEARCH)),
    )
    if path in SEARCH:
        fields = SEARCH[path]
        needed = {}
    elif path == "/v1/completions":
        fields = RIGHT | COMPLETION
        needed = {"model": model, "prompt": draw(PROMPT), "max_tokens": 3}
    else:
        fields = RIGHT | CHAT
        needed = {"model": model, "messages": draw(TURNS), "max_tokens": 3}
    value: dict[str, Any] = dict(needed)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=5, unique=True)):
        is_wild = draw(st.integers(0, 9)) == 0
        value[name] = draw(ANYTHING if is_wild else fields[name])
    if draw(st.integers(0, 19)) == 0:
        value[draw(st.sampled_from(sorted({*needed, "other"})))] = draw(ANYTHING)
    return path, json.dumps(value).encode()
