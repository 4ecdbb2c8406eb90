import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.initialization import from_folder
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.tokenizer import stage as tokenizer

IDS = {"bos_id": 1, "eos_id": 2, "pad_id": 3}


@pytest.fixture(scope="module")
def other_tokenizer_dir(small_corpus_dir, stage_context, tmp_path_factory):
    """Another vocabulary of the same text: some pieces are shared, others not."""
    folder = tmp_path_factory.mktemp("other")
    settings = TokenizerSettings(vocab_size=500, model="unigram")
    tokenizer.run(
        settings=settings, context=stage_context, out_dir=folder, corpus_dir=small_corpus_dir
    )
    return folder


def test_the_same_tokenizer_keeps_every_weight(small_base_dir, small_tokenizer_dir):
    start = from_folder(str(small_base_dir / "final"), ModelSettings(), small_tokenizer_dir, IDS)
    there = AutoModelForCausalLM.from_pretrained(small_base_dir / "final").state_dict()
    here = start.model.state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in there)
    assert start.settings.hidden_size == 32
    assert start.num_shared_pieces is None


def test_a_transplant_copies_shared_pieces_and_means_the_others(
    small_base_dir, small_tokenizer_dir, other_tokenizer_dir
):
    place = str(small_base_dir / "final")
    start = from_folder(place, ModelSettings(), other_tokenizer_dir, IDS)
    old_vocabulary = _vocabulary(small_tokenizer_dir)
    new_vocabulary = _vocabulary(other_tokenizer_dir)
    old = AutoModelForCausalLM.from_pretrained(place)
    shared = old_vocabulary.keys() & new_vocabulary.keys()
    assert start.num_shared_pieces == len(shared)
    assert 263 <= len(shared) < len(new_vocabulary)  # the 256 bytes and 7 special tokens at least
    encoder = load_tokenizer(small_tokenizer_dir)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, get)().weight, getattr(start.model, get)().weight
        assert after.shape == (len(new_vocabulary), 32)
        for piece in shared:
            assert torch.equal(after[new_vocabulary[piece]], before[old_vocabulary[piece]]), piece
        for piece in new_vocabulary.keys() - old_vocabulary.keys():
            if piece.startswith("▁") and len(piece) > 1:  # a word's beginning: spelt as a text
                expected = before[encoder.encode(piece[1:])].mean(dim=0)
                assert torch.allclose(after[new_vocabulary[piece]], expected, atol=1e-6), piece
    assert start.model.config.vocab_size == len(new_vocabulary)


def test_a_transplant_to_bytes_keeps_the_pieces_of_the_same_text(
    small_base_dir, small_tokenizer_dir, small_bytes_tokenizer_dir
):
    place = str(small_base_dir / "final")
    start = from_folder(place, ModelSettings(), small_bytes_tokenizer_dir, IDS)
    before = AutoModelForCausalLM.from_pretrained(place).get_input_embeddings().weight
    after = start.model.get_input_embeddings().weight
    old, new = _vocabulary(small_tokenizer_dir), _vocabulary(small_bytes_tokenizer_dir)
    assert torch.equal(after[new["</s>"]], before[old["</s>"]])
    both = [piece for piece in new if piece.startswith("Ġ") and "▁" + piece[1:] in old]
    assert len(both) > 100
    for piece in both:
        assert torch.equal(after[new[piece]], before[old["▁" + piece[1:]]]), piece
    half_a_letter = torch.equal(after[new["Ã"]], before.mean(dim=0))
    assert half_a_letter


def _vocabulary(folder):
    return AutoTokenizer.from_pretrained(folder).get_vocab()


def test_what_cannot_be_started_from_says_why(small_base_dir, small_tokenizer_dir, tmp_path):
    def fault(place, settings=None):
        with pytest.raises(UserError) as caught:
            from_folder(str(place), settings or ModelSettings(), small_tokenizer_dir, IDS)
        return caught.value

    assert fault(tmp_path / "absent").code == "start-missing"
    assert fault(tmp_path).code == "start-missing"
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert 'model_type is "gpt2"' in fault(tmp_path).what
    other = ModelSettings(hidden_size=64, num_attention_heads=2)
    error = fault(small_base_dir / "final", other)
    assert error.code == "start-other-sizes"
    assert "2 layers x 32" in error.what
    assert "12 layers x 64" in error.what
