"""Generation: the same text for the same seed, alone, in a batch and in a session."""

from __future__ import annotations

import pytest
import torch
from support.tiny_llama import PROMPTS, tiny_llama
from transformers import LlamaForCausalLM

from teenytinyllama.errors import UserError
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.generation import (
    ChatSession,
    DecodingBatch,
    SequenceState,
    generate,
    stream,
)
from teenytinyllama.inference.kv_cache import KVCache
from teenytinyllama.inference.text_stream import TextStream


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


def test_a_stop_id_ends_a_text_and_is_left_out(model: LlamaForCausalLM) -> None:
    whole = generate(model, [PROMPTS[0]], max_new_tokens=12)[0]
    cut = generate(model, [PROMPTS[0]], max_new_tokens=12, stop_ids=[whole[5]])[0]
    assert cut == whole[: whole.index(whole[5])]


def test_generation_ends_where_the_context_is_full(model: LlamaForCausalLM) -> None:
    prompt = [1, *range(50, 110)]  # 61 of 64 positions
    assert len(generate(model, [prompt], max_new_tokens=50)[0]) == 3


def test_sampling_depends_on_the_seed_alone(model: LlamaForCausalLM) -> None:
    same = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.95}
    first = generate(model, PROMPTS, seed=3, **same)
    assert generate(model, PROMPTS, seed=3, **same) == first
    assert generate(model, PROMPTS, seed=4, **same) != first
    assert generate(model, PROMPTS[:1], seed=3, **same)[0] == first[0]


def test_joining_and_leaving_a_batch_changes_no_other_text(model: LlamaForCausalLM) -> None:
    alone = generate(model, PROMPTS, max_new_tokens=16)
    batch = DecodingBatch(Decoder(model), max_rows=3)
    first, second, third, fourth = [SequenceState(prompt, 16) for prompt in PROMPTS]
    batch.admit([first])
    batch.step()
    batch.admit([second, third])
    batch.step()
    batch.cancel(first)
    batch.admit([fourth])
    while batch.active:
        batch.step()
    assert first.finish_reason == "cancelled" and first.new_ids == alone[0][: len(first.new_ids)]
    assert [s.new_ids for s in (second, third, fourth)] == alone[1:]


def test_more_prompts_than_rows_are_all_answered(model: LlamaForCausalLM) -> None:
    prompts = [[1, 4 + i] for i in range(70)]
    assert [len(ids) for ids in generate(model, prompts, max_new_tokens=2)] == [2] * 70


@pytest.mark.parametrize(
    ("prompt", "code"),
    [([], "prompt-empty"), ([1] * 64, "prompt-too-long"), ([1, 300], "prompt-ids")],
)
def test_a_prompt_that_cannot_be_used_is_an_error(
    model: LlamaForCausalLM, prompt: list[int], code: str
) -> None:
    with pytest.raises(UserError) as error:
        generate(model, [prompt], max_new_tokens=1)
    assert error.value.code == code


def test_weights_with_nan_are_an_error() -> None:
    broken = tiny_llama()
    broken.lm_head.weight.data[7] = float("nan")
    with pytest.raises(UserError, match="model-not-finite"):
        generate(broken, [[1, 2]], max_new_tokens=1)


def test_a_row_that_cannot_be_drawn_ends_alone(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [PROMPTS[row] for row in (2, 1, 3, 0)]  # a short row moves to where NaN was
    alone = generate(model, prompts, max_new_tokens=12)
    decoder = Decoder(model)
    step = decoder.decode_step

    def step_with_nan(cache: KVCache, ids: list[int]) -> torch.Tensor:
        logits = step(cache, ids).clone()
        if cache.lengths[0] == len(prompts[0]) + 3:
            logits[1] = float("nan")
            with torch.inference_mode():
                cache.values[:, 1] = float("nan")  # where such logits come from
        return logits

    monkeypatch.setattr(decoder, "decode_step", step_with_nan)
    batch = DecodingBatch(decoder)
    first, broken, third, fourth = [SequenceState(prompt, 12) for prompt in prompts]
    batch.admit([first, broken, third])
    while broken.error is None:
        batch.step()
    batch.admit([fourth])  # into a row that held NaN
    while batch.active:
        batch.step()
    assert "model-not-finite" in str(broken.error) and broken.finish_reason == "error"
    assert [s.new_ids for s in (first, third, fourth)] == [alone[0], alone[2], alone[3]]


def test_a_prefill_that_fails_admits_nothing(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder(model)
    batch = DecodingBatch(decoder)
    first = SequenceState(PROMPTS[0], 12)
    batch.admit([first])
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_forward", lambda *_: 1 / 0)  # as where memory ends
        with pytest.raises(ZeroDivisionError):
            batch.admit([SequenceState(PROMPTS[1], 12)])
    while batch.active:
        batch.step()
    assert first.new_ids == generate(model, PROMPTS[:1], max_new_tokens=12)[0]


def test_stream_yields_the_text_of_the_same_ids(model: LlamaForCausalLM) -> None:
    vocabulary = [b" %d" % index for index in range(300)]
    ids = generate(model, [PROMPTS[0]], max_new_tokens=10)[0]
    sequence = SequenceState(PROMPTS[0], 10)
    text = "".join(stream(model, sequence, TextStream(vocabulary)))
    assert text == " ".join(str(token) for token in ids) and sequence.finish_reason == "length"

    sequence = SequenceState(PROMPTS[0], 10)
    text = "".join(stream(model, sequence, TextStream(vocabulary, stop=[f"{ids[4]}"])))
    assert sequence.finish_reason == "stop" and f"{ids[4]}" not in text


def generated(model: Decoder | ChatSession, prompt: list[int], count: int = 6) -> list[int]:
    sequence = SequenceState(prompt, count)
    list(stream(model, sequence, TextStream([b"x"] * 300)))
    return sequence.new_ids


def test_a_session_prefills_only_what_is_new(model: LlamaForCausalLM) -> None:
    decoder = Decoder(model)
    session = ChatSession(decoder)
    first = [1, *range(30, 50)]
    answer = generated(session, first)
    assert answer == generated(decoder, first) and session.num_prefilled == 21
    second = [*first, *answer, 7, 8, 9]
    assert generated(session, second) == generated(decoder, second)
    assert session.num_prefilled == 21 + 1 + 3  # the answer's last token was never fed
    other = [1, 30, 31, 99]  # another question: all but its first three tokens
    assert generated(session, other) == generated(decoder, other)
    assert session.num_prefilled == 25 + 1
    assert generated(session, other) == generated(decoder, other)  # again: its last token
    assert session.num_prefilled == 26 + 1


def test_a_session_continues_after_an_interrupted_step(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder(model)
    session = ChatSession(decoder)
    step, calls = decoder.decode_step, 0

    def interrupted(*given: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        logits = step(*given)
        if calls == 3:
            raise KeyboardInterrupt  # the token is in the cache, the session does not know
        return logits

    monkeypatch.setattr(decoder, "decode_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generated(session, PROMPTS[0])
    monkeypatch.setattr(decoder, "decode_step", step)
    for prompt in (PROMPTS[2], [*PROMPTS[0], 11, 12], PROMPTS[0]):
        assert generated(session, prompt) == generated(decoder, prompt)


def test_a_stop_string_completed_by_the_end_is_a_stop(model: LlamaForCausalLM) -> None:
    vocabulary = [b"\xc3"] * 300  # no token is a whole character: all text comes at the end
    sequence = SequenceState(PROMPTS[0], 4)
    text = TextStream(vocabulary, ["\ufffd\ufffd\ufffd\ufffd"])
    assert "".join(stream(model, sequence, text)) == "" and sequence.finish_reason == "stop"
