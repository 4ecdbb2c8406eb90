"""Our forward passes against lm-evaluation-harness's own, request by request."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from lm_eval.models.huggingface import HFLM

from teenytinyllama import storybook
from teenytinyllama.stages.evaluate.harness import PackedLM

CONTEXT = 96  # of the models in conftest.py
ARCHITECTURES = ("llama", "gpt2", "neox", "qwen2")


def requests(count: int = 12) -> list[SimpleNamespace]:
    """Questions with and without solved examples before them, some longer than the context."""
    items = list(storybook.questions(seed=0, num_items=count + 3))
    solved = "\n\n".join(
        f"{item['question']} {item['choices'][item['answer']]}" for item in items[count:]
    )
    pairs = []
    for index, item in enumerate(items[:count]):
        before = ("", solved[:60] + "\n\n", (solved + "\n\n") * 3)[index % 3]
        pairs += [(before + item["question"], f" {choice}") for choice in item["choices"]]
        pairs += [(before + item["question"], letter) for letter in (" A", " B")]
    pairs += [("", "Era uma vez"), ("Bom dia ", "a todos")]
    random.Random(0).shuffle(pairs)
    return [SimpleNamespace(args=pair) for pair in pairs]


def packed(model, tokenizer, **options) -> PackedLM:
    settings = {"row_tokens": 256, "max_length": CONTEXT, **options}
    return PackedLM(model, tokenizer, **settings)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("add_bos", [None, False])
def test_equals_the_harness_own_backend(kind, add_bos, build, tokenizer):
    model = build(kind)
    theirs = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=4,
        max_length=CONTEXT,
        softmax_dtype="float32",
        add_bos_token=add_bos,
    )
    ours = packed(model, tokenizer, add_bos=add_bos)
    assert ours.is_packed, "this architecture is expected to take our masks"
    asked = requests()
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    found = ours.loglikelihood(asked)
    for (logprob, greedy), (their_logprob, their_greedy) in zip(found, expected, strict=True):
        assert logprob == pytest.approx(their_logprob, abs=1e-4)
        assert greedy == their_greedy
    assert ours.num_truncated > 0


def test_same_for_any_row_length(build, tokenizer):
    model = build("llama")
    answers = [
        packed(model, tokenizer, row_tokens=tokens).loglikelihood(requests())
        for tokens in (1, 64, 300, 5000)
    ]
    for other in answers[1:]:
        for (logprob, _), (first, _) in zip(other, answers[0], strict=True):
            assert logprob == pytest.approx(first, abs=1e-5)
