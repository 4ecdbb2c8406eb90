"""Packed forward passes against lm-evaluation-harness's own backend, request by request."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from teenytinyllama.errors import UserError
from teenytinyllama.stages.evaluate.packed_lm import PackedLM
from teenytinyllama.stages.evaluate.prefix_sharing import LoglikelihoodRequest
from teenytinyllama.synthetic import dataset as synthetic

CONTEXT = 96  # of the models in conftest.py
ARCHITECTURES = ("llama", "gpt2", "neox", "qwen2")


def requests(count: int = 12) -> list[SimpleNamespace]:
    """Questions with and without solved examples before them, some longer than the context."""
    items = list(synthetic.questions(seed=0, num_items=count + 3))
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
    settings = {"batch_tokens": 256, "max_length": CONTEXT, **options}
    return PackedLM(model, tokenizer, **settings)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("add_bos", [None, False])
def test_equals_the_harness_backend(kind, add_bos, build, tokenizer):
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
    assert ours.is_packed, "this architecture should take our masks"
    asked = requests()
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    found = ours.loglikelihood(asked)
    for (logprob, greedy), (their_logprob, their_greedy) in zip(found, expected, strict=True):
        assert logprob == pytest.approx(their_logprob, abs=1e-4)
        assert greedy == their_greedy
    assert ours.truncated


def test_batch_size_does_not_change_results(build, tokenizer):
    model = build("llama")
    answers = [
        packed(model, tokenizer, batch_tokens=tokens).loglikelihood(requests(6))
        for tokens in (1, 64, 5000)
    ]
    for other in answers[1:]:
        for (logprob, _), (first, _) in zip(other, answers[0], strict=True):
            assert logprob == pytest.approx(first, abs=1e-5)


def test_resumed_evaluation_gives_the_same_bits(build, tokenizer, tmp_path):
    model = build("llama")
    options = {"batch_tokens": 128, "identity": {"weights": "a"}}
    asked = requests(5)
    undisturbed = packed(model, tokenizer, **options).loglikelihood(asked)
    for stop_at in range(1, 30):
        lm = packed(model, tokenizer, **options, cache_dir=tmp_path)
        score, done = lm._score_batch, 0

        def stopping(batch, score=score, stop_at=stop_at):
            nonlocal done
            done += 1
            if done == stop_at % 3 + 1:
                raise KeyboardInterrupt
            return score(batch)

        lm._score_batch = stopping
        try:
            answers = lm.loglikelihood(asked)
            break
        except KeyboardInterrupt:
            for path in tmp_path.glob("*.jsonl"):  # a kill may also cut a line in two
                path.write_bytes(path.read_bytes()[: -5 if stop_at % 4 == 0 else None])
    assert answers == undisturbed
    again = packed(model, tokenizer, **options, cache_dir=tmp_path)
    again._score_batch = lambda batch: pytest.fail("cached results must not be computed again")
    assert again.loglikelihood(asked) == undisturbed


def test_cached_results_do_not_serve_another_model(build, tokenizer, tmp_path):
    first = packed(build("llama"), tokenizer, identity={"weights": "a"}, cache_dir=tmp_path)
    other = packed(build("llama", seed=1), tokenizer, identity={"weights": "b"}, cache_dir=tmp_path)
    asked = requests()
    mine, theirs = first.loglikelihood(asked), other.loglikelihood(asked)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert mine != theirs
    fresh = packed(build("llama", seed=1), tokenizer).loglikelihood(asked)
    assert theirs == fresh


def test_nan_is_an_error(build, tokenizer):
    model = build("llama")
    lm = packed(model, tokenizer)
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(UserError, match="logprob-not-finite"):
        lm.loglikelihood(requests(3))


def test_batch_too_large_for_memory_is_halved(build, tokenizer):
    model = build("llama")
    expected = packed(model, tokenizer).loglikelihood(requests())
    lm = packed(model, tokenizer, batch_tokens=1024)
    forward, sizes = lm._forward, []

    def limited(batch, wanted):
        sizes.append(len(batch.rows))
        if len(batch.rows) > 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(batch, wanted)

    lm._forward = limited
    found = lm.loglikelihood(requests())
    assert max(sizes) > 2
    for (logprob, _), (before, _) in zip(found, expected, strict=True):
        assert logprob == pytest.approx(before, abs=1e-5)


def test_model_with_sliding_window_is_scored_plainly(build, tokenizer):
    model = build("llama")
    expected = packed(model, tokenizer).loglikelihood(requests(4))
    model.config.sliding_window = 8
    lm = packed(model, tokenizer)
    assert not lm.is_packed
    for (logprob, _), (before, _) in zip(lm.loglikelihood(requests(4)), expected, strict=True):
        assert logprob == pytest.approx(before, abs=1e-4)


def test_choice_longer_than_the_context_is_an_error(build, tokenizer):
    lm = packed(build("llama"), tokenizer, max_length=4)
    with pytest.raises(UserError, match=r"choice-too-long.*tokens, the model reads 4"):
        lm.loglikelihood([SimpleNamespace(args=("Pergunta:", " uma resposta muito comprida"))])


def test_context_and_continuation_tokenized_separately(build, tokenizer):
    """As the harness did until 2023; together, some tokens would span both."""
    lm = packed(build("llama"), tokenizer, add_bos=False, encodes_apart=True)
    together = packed(build("llama"), tokenizer, add_bos=False)
    pairs = [("Bom dia", " a todos"), ("O gato cor", "re depressa"), ("Pergunta: ", "sim")]
    apart = [
        tuple(tokenizer.encode(part, add_special_tokens=False) for part in pair) for pair in pairs
    ]
    assert [lm._encode_pair(*pair) for pair in pairs] == apart
    assert [together._encode_pair(*pair) for pair in pairs] != apart
    asked = [SimpleNamespace(args=pair) for pair in pairs]
    for (context, continuation), (logprob, _) in zip(apart, lm.loglikelihood(asked), strict=True):
        ids = torch.tensor([[*context, *continuation]])
        with torch.no_grad():
            logprobs = lm.model(ids).logits[0, :-1].log_softmax(-1)
        expected = logprobs.gather(1, ids[0, 1:, None])[-len(continuation) :].sum()
        assert logprob == pytest.approx(float(expected), abs=1e-4)


def test_long_context_without_prefix_after_one_with_prefix(build, tokenizer):
    """The batch of the cluster with a prefix comes first and leaves its KV cache behind."""
    lm = packed(build("llama"), tokenizer, max_length=2048, batch_tokens=4096)
    lm.model.config.max_position_embeddings = 2048
    draw = random.Random(0).randrange

    def ids(count):
        return tuple(draw(300) for _ in range(count))

    shared = ids(60)
    contexts = [(1, *shared, *ids(250)) for _ in range(3)] + [(2, *ids(250))]
    asked = [LoglikelihoodRequest(context, ids(2)) for context in contexts]
    found = lm.score(asked)
    lm.is_packed = False
    expected = lm.score(asked)
    for key, result in expected.items():
        assert found[key].logprob == pytest.approx(result.logprob, abs=1e-4)
