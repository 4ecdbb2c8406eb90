import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.initialization import build_model, initialize_from, llama_config
from teenytinyllama.modeling.loading import save_final
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.tokenizer import stage as tokenizer

IDS = {"bos_id": 1, "eos_id": 2, "pad_id": 3}


def test_weights_depend_on_the_seed_alone():
    small = ModelSettings(hidden_size=16, intermediate_size=32, num_attention_heads=2)
    config = llama_config(small, 50, bos_id=1, eos_id=2, pad_id=3)
    torch.manual_seed(1)
    first = build_model(config, seed=4).state_dict()
    torch.manual_seed(2)
    second = build_model(config, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def other_tokenizer_dir(small_corpus_dir, stage_context, tmp_path_factory):
    """Another vocabulary of the same text: some tokens are shared, others not."""
    folder = tmp_path_factory.mktemp("other")
    settings = TokenizerSettings(vocab_size=500, model="unigram")
    tokenizer.run(
        settings=settings, context=stage_context, out_dir=folder, corpus_dir=small_corpus_dir
    )
    return folder


def test_the_same_tokenizer_keeps_every_weight(small_base_dir, small_tokenizer_dir):
    start = initialize_from(
        str(small_base_dir / "final"), ModelSettings(), small_tokenizer_dir, IDS
    )
    there = AutoModelForCausalLM.from_pretrained(small_base_dir / "final").state_dict()
    here = start.model.state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in there)
    assert start.settings.hidden_size == 32
    assert start.num_shared_tokens is None


def test_a_transplant_copies_shared_pieces_and_means_the_others(
    small_base_dir, small_tokenizer_dir, other_tokenizer_dir
):
    place = str(small_base_dir / "final")
    start = initialize_from(place, ModelSettings(), other_tokenizer_dir, IDS)
    old_vocabulary = _vocabulary(small_tokenizer_dir)
    new_vocabulary = _vocabulary(other_tokenizer_dir)
    old = AutoModelForCausalLM.from_pretrained(place)
    shared = old_vocabulary.keys() & new_vocabulary.keys()
    assert start.num_shared_tokens == len(shared)
    assert 263 <= len(shared) < len(new_vocabulary)  # the 256 bytes and 7 special tokens at least
    encoder = load_tokenizer(small_tokenizer_dir)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, get)().weight, getattr(start.model, get)().weight
        assert after.shape == (len(new_vocabulary), 32)
        for token in shared:
            assert torch.equal(after[new_vocabulary[token]], before[old_vocabulary[token]]), token
        for token in new_vocabulary.keys() - old_vocabulary.keys():
            if token.startswith(" ") and len(token) > 1:  # the start of a word: encoded as text
                expected = before[encoder.encode(token[1:])].mean(dim=0)
                assert torch.allclose(after[new_vocabulary[token]], expected, atol=1e-6), token
    assert start.model.config.vocab_size == len(new_vocabulary)


def test_a_transplant_to_bytes_keeps_tokens_of_equal_text(
    small_base_dir, small_tokenizer_dir, small_bytes_tokenizer_dir
):
    place = str(small_base_dir / "final")
    start = initialize_from(place, ModelSettings(), small_bytes_tokenizer_dir, IDS)
    before = AutoModelForCausalLM.from_pretrained(place).get_input_embeddings().weight
    after = start.model.get_input_embeddings().weight
    old, new = _vocabulary(small_tokenizer_dir), _vocabulary(small_bytes_tokenizer_dir)
    assert torch.equal(after[new["</s>"]], before[old["</s>"]])
    both = [token for token in new if token.startswith("Ġ") and " " + token[1:] in old]
    assert len(both) > 100
    for token in both:
        assert torch.equal(after[new[token]], before[old[" " + token[1:]]]), token
    partial_character = torch.equal(after[new["Ã"]], before.mean(dim=0))
    assert partial_character


def test_a_qwen3_is_built_saved_and_started_from(small_tokenizer_dir, tmp_path):
    settings = ModelSettings(
        kind="qwen3",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    config = llama_config(settings, 600, bos_id=1, eos_id=2, pad_id=3)
    model = build_model(config, seed=1)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    save_final(model, tmp_path / "final", small_tokenizer_dir)
    start = initialize_from(str(tmp_path / "final"), settings, small_tokenizer_dir, IDS)
    assert start.settings == settings
    pairs = zip(start.model.state_dict().items(), model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    with pytest.raises(UserError, match=r"its sizes \(qwen3, 2 layers x 32\)"):
        other = settings.model_copy(update={"kind": "llama"})
        initialize_from(str(tmp_path / "final"), other, small_tokenizer_dir, IDS)


def _vocabulary(folder):
    return AutoTokenizer.from_pretrained(folder).get_vocab()


def test_an_unusable_start_says_why(small_base_dir, small_tokenizer_dir, tmp_path):
    def error_of(place, settings=None):
        with pytest.raises(UserError) as caught:
            initialize_from(str(place), settings or ModelSettings(), small_tokenizer_dir, IDS)
        return caught.value

    assert error_of(tmp_path / "absent").code == "start-missing"
    assert error_of(tmp_path).code == "start-missing"
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert 'model_type is "gpt2"' in error_of(tmp_path).what
    other = ModelSettings(hidden_size=64, num_attention_heads=2)
    error = error_of(small_base_dir / "final", other)
    assert error.code == "start-other-sizes"
    assert "2 layers x 32" in error.what
    assert "12 layers x 64" in error.what
