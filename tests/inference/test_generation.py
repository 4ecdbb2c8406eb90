"""Generation: equal to transformers where it must be, and the same text for the same seed."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from teenytinyllama.errors import UserError
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.generation import (
    Batch,
    Dialogue,
    Request,
    Sampling,
    TextStream,
    _filtered,
    _penalised,
    generate,
    stream,
)

PROMPTS = [[1, 5, 9, 20], [1, 7], [1, *range(30, 50)], [1, 200, 201]]


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    sizes = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,  # far from ties between the two most likely tokens
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


def by_transformers(model: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "tie_word_embeddings": True},
        {"head_dim": 32},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ],
    ids=["grouped", "multi-head", "tied", "wide-heads", "scaled-positions"],
)
def test_greedy_equals_transformers_for_prompts_of_unequal_length(changes: dict) -> None:
    model = tiny_llama(**changes)
    expected = [by_transformers(model, prompt, 24) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=24) == expected


def test_bfloat16_logits_stay_near_those_of_transformers(model: LlamaForCausalLM) -> None:
    half = tiny_llama().to(torch.bfloat16)
    decoder = Decoder(half)
    memory = decoder.new_memory()
    logits = decoder.read(memory, [PROMPTS[2]])
    for token in (40, 41):  # the single-row step takes another kernel than the reading
        logits = decoder.step(memory, [token])
    with torch.no_grad():
        expected = half(torch.tensor([[*PROMPTS[2], 40, 41]])).logits[0, -1].float()
    # bfloat16 keeps 8 bits: logits of size 10 are known to about 0.06.
    assert (logits[0] - expected).abs().max() < 0.15


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_bfloat16_rows_of_unequal_length_stay_near_each_one_alone(num_kv_heads: int) -> None:
    half = tiny_llama(num_key_value_heads=num_kv_heads).to(torch.bfloat16)
    decoder = Decoder(half)
    memory = decoder.new_memory()
    decoder.read(memory, PROMPTS)
    for _ in range(3):  # several rows take other kernels than one
        logits = decoder.step(memory, [40, 41, 42, 43])
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *[40 + row] * 3]])
            expected = half(ids).logits[0, -1].float()
        assert (logits[row] - expected).abs().max() < 0.15


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


def test_who_joins_and_leaves_changes_nobody_elses_text(model: LlamaForCausalLM) -> None:
    alone = generate(model, PROMPTS, max_new_tokens=16)
    batch = Batch(Decoder(model), max_rows=3)
    first, second, third, fourth = [Request(prompt, 16) for prompt in PROMPTS]
    batch.admit([first])
    batch.step()
    batch.admit([second, third])
    batch.step()
    batch.cancel(first)
    batch.admit([fourth])
    while batch.active:
        batch.step()
    assert first.finish == "cancelled" and first.new_ids == alone[0][: len(first.new_ids)]
    assert [r.new_ids for r in (second, third, fourth)] == alone[1:]


def test_more_prompts_than_rows_are_all_answered(model: LlamaForCausalLM) -> None:
    prompts = [[1, 4 + i] for i in range(70)]
    assert [len(ids) for ids in generate(model, prompts, max_new_tokens=2)] == [2] * 70


LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.5), [1, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.6), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, min_p=0.2), [0.5, 0.3, 0.15, 0]),
        (Sampling(temperature=0.5, top_k=2), [25 / 34, 9 / 34, 0, 0]),
    ],
)
def test_filters_keep_the_tokens_worked_out_by_hand(sampling: Sampling, kept: list[float]) -> None:
    found = _filtered(LOGITS, sampling)
    torch.testing.assert_close(found, torch.tensor(kept, dtype=torch.float32))


def test_repetition_penalty_pushes_both_signs_down() -> None:
    found = _penalised(torch.tensor([2.0, -2.0, 1.0]), [0, 1], 2.0)
    assert found.tolist() == [1.0, -4.0, 1.0]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [([], "prompt-empty"), ([1] * 64, "prompt-too-long"), ([1, 300], "prompt-ids")],
)
def test_a_prompt_that_cannot_be_read_is_named(
    model: LlamaForCausalLM, prompt: list[int], code: str
) -> None:
    with pytest.raises(UserError) as error:
        generate(model, [prompt], max_new_tokens=1)
    assert error.value.code == code


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": float("nan")}, {"min_p": 2.0}]
)
def test_sampling_out_of_range_is_named(wrong: dict) -> None:
    with pytest.raises(UserError) as error:
        Sampling(**wrong)
    assert (error.value.code, error.value.where) == ("sampling-value", next(iter(wrong)))


def test_weights_that_are_not_numbers_are_an_error() -> None:
    broken = tiny_llama()
    broken.lm_head.weight.data[7] = float("nan")
    with pytest.raises(UserError, match="model-not-finite"):
        generate(broken, [[1, 2]], max_new_tokens=1)


def test_another_architecture_is_refused_by_name() -> None:
    model = tiny_llama()
    model.config.model_type = "mistral"
    with pytest.raises(UserError, match="mistral"):
        Decoder(model)


def test_streamed_text_is_whole_characters_and_ends_before_a_stop_string() -> None:
    emoji = [bytes([byte]) for byte in "🦊".encode()]
    vocabulary = [b" ol", *emoji, b"!", b" Usu", b"ario", b"\xc3", b"x"]
    spoken = TextStream(vocabulary, stop=["Usuario"])
    assert [spoken.push(token) for token in range(6)] == ["ol", "", "", "", "🦊", "!"]
    assert spoken.push(6) == " " and not spoken.stopped
    assert spoken.push(7) == "" and spoken.stopped

    broken = TextStream(vocabulary)
    assert [broken.push(token) for token in (8, 9)] == ["", "\ufffdx"]
    assert broken.push(8) == "" and broken.finish() == "\ufffd"


def test_stream_gives_the_text_of_the_same_ids(model: LlamaForCausalLM) -> None:
    vocabulary = [b" %d" % index for index in range(300)]
    ids = generate(model, [PROMPTS[0]], max_new_tokens=10)[0]
    request = Request(PROMPTS[0], 10)
    text = "".join(stream(model, request, TextStream(vocabulary)))
    assert text == " ".join(str(token) for token in ids) and request.finish == "length"

    request = Request(PROMPTS[0], 10)
    text = "".join(stream(model, request, TextStream(vocabulary, stop=[f"{ids[4]}"])))
    assert request.finish == "stop" and f"{ids[4]}" not in text


def spoken(model: Decoder | Dialogue, prompt: list[int], count: int = 6) -> list[int]:
    request = Request(prompt, count)
    list(stream(model, request, TextStream([b"x"] * 300)))
    return request.new_ids


def test_a_dialogue_reads_only_what_is_new_and_says_the_same(model: LlamaForCausalLM) -> None:
    decoder = Decoder(model)
    dialogue = Dialogue(decoder)
    first = [1, *range(30, 50)]
    answer = spoken(dialogue, first)
    assert answer == spoken(decoder, first) and dialogue.num_read == 21
    second = [*first, *answer, 7, 8, 9]
    assert spoken(dialogue, second) == spoken(decoder, second)
    assert dialogue.num_read == 21 + 1 + 3  # the answer's last token was never fed
    other = [1, 30, 31, 99]  # another question: all but its first three tokens
    assert spoken(dialogue, other) == spoken(decoder, other)
    assert dialogue.num_read == 25 + 1
    assert spoken(dialogue, other) == spoken(decoder, other)  # the same one again: its last token
    assert dialogue.num_read == 26 + 1


def test_a_dialogue_goes_on_after_a_step_was_broken_off(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder(model)
    dialogue = Dialogue(decoder)
    step, calls = decoder.step, 0

    def broken(*given: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        logits = step(*given)
        if calls == 3:
            raise KeyboardInterrupt  # the token is in memory, nobody was told
        return logits

    monkeypatch.setattr(decoder, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        spoken(dialogue, PROMPTS[0])
    monkeypatch.setattr(decoder, "step", step)
    for prompt in (PROMPTS[2], [*PROMPTS[0], 11, 12], PROMPTS[0]):
        assert spoken(dialogue, prompt) == spoken(decoder, prompt)


def test_a_stop_string_that_only_the_end_makes_certain_is_a_stop(model: LlamaForCausalLM) -> None:
    vocabulary = [b"\xc3"] * 300  # no token is a whole character: all of it comes at the end
    request = Request(PROMPTS[0], 4)
    text = TextStream(vocabulary, ["\ufffd\ufffd\ufffd\ufffd"])
    assert "".join(stream(model, request, text)) == "" and request.finish == "stop"
