"""Loading a chat model: whatever is wrong with its folder is an error of one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.mapped_files import is_mapped
from transformers import LlamaConfig, LlamaForCausalLM

from teenytinyllama import hardware
from teenytinyllama.artifacts.manifest import Manifest, hash_outputs, write_manifest
from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import find_model_folder, load_chat_model, model_names
from teenytinyllama.inference.sampling import Sampling


@pytest.fixture(scope="module")
def model_dir(small_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=640,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in small_tokenizer_dir.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def setting(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (setting(model_type="mistral"), "model-unsupported", 'model_type is "mistral"'),
        (setting(attention_bias=True), "model-unsupported", "attention_bias is true"),
        (setting(hidden_act="gelu"), "model-unsupported", 'hidden_act is "gelu"'),
        (setting(num_hidden_layers=3), "model-damaged", "9 weights are not in its files"),
        (setting(vocab_size=650), "model-damaged", "2 weights have other shapes"),
        (setting(num_attention_heads=3), "model-damaged", "not a multiple"),
        (cut_weights, "model-damaged", "cannot be loaded"),
        (lambda d: (d / "model.safetensors").unlink(), "model-damaged", "no file named"),
        (lambda d: (d / "config.json").write_text("{"), "model-damaged", "config.json"),
        (lambda d: (d / "tokenizer.model").unlink(), "tokenizer-missing", "tokenizer.model"),
        (lambda d: (d / "tokenizer.model").write_bytes(b"x"), "tokenizer-damaged", "SentencePiece"),
    ],
)
def test_a_damaged_folder_is_an_error_of_one_line(
    model_dir: Path, tmp_path: Path, change: Callable[[Path], None], code: str, words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    change(folder)
    with pytest.raises(UserError) as error:
        load_chat_model(folder)
    assert error.value.code == code
    assert words in str(error.value) and "\n" not in str(error.value)


def manifest(stage: str) -> Manifest:
    names = ("recipe", "inputs", "outputs", "counts", "metrics", "energy_kwh", "versions")
    empty: dict[str, object] = {name: {} for name in names}
    times = {"started_at": "", "duration_s": 0.0, "emissions_kg": 0.0}
    return Manifest.model_validate(
        {"stage": stage, "version": "0", "fingerprint": "", **empty, **times}
    )


def test_weights_in_bfloat16_become_fp32_without_kernels_for_them(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LlamaForCausalLM.from_pretrained(model_dir)
    whole.to(torch.bfloat16).save_pretrained(model_dir)
    for fits, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda _, fits=fits: fits)
        assert load_chat_model(model_dir).decoder.dtype == dtype


def test_no_other_model_answers_in_place_of_a_damaged_one(model_dir: Path, tmp_path: Path) -> None:
    for stage in ("pretrain", "align"):
        shutil.copytree(model_dir, tmp_path / stage / "final")
        outputs = hash_outputs(tmp_path / stage)
        write_manifest(tmp_path / stage, manifest(stage).model_copy(update={"outputs": outputs}))
    assert find_model_folder(tmp_path) == tmp_path / "align/final"
    (tmp_path / "align/final/config.json").unlink()
    with pytest.raises(UserError, match=r"output-damaged.*align/final/config.json"):
        find_model_folder(tmp_path)


@pytest.mark.parametrize(("stage", "answers"), [("pretrain", False), ("align", True)])
def test_a_base_model_continues_and_a_chat_model_answers(
    model_dir: Path, tmp_path: Path, stage: str, answers: bool
) -> None:
    shutil.copytree(model_dir, tmp_path / "stage" / "final")
    write_manifest(tmp_path / "stage", manifest(stage))
    chat_model = load_chat_model(tmp_path / "stage")
    prompt = chat_model.encode_prompt([{"role": "user", "content": "Era uma vez"}])
    encoder = chat_model.encoder
    plain = [encoder.bos_id, *encoder.encode("Era uma vez")]
    chat = [1, 5, *encoder.encode("Era uma vez"), 2, 6]  # <s> <|user|> ... </s> <|assistant|>
    assert (chat_model.answers, prompt) == (answers, chat if answers else plain)


def test_a_conversation_must_end_with_a_question(model_dir: Path) -> None:
    chat_model = load_chat_model(model_dir)
    with pytest.raises(UserError, match="the last message is not the user's"):
        chat_model.encode_prompt(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        )


def test_a_run_means_its_chat_model_then_its_base_model(tmp_path: Path) -> None:
    for name in ("pretrain", "align"):
        (tmp_path / name / "final").mkdir(parents=True)
    (tmp_path / "pretrain" / "final" / "config.json").write_text("{}")
    assert find_model_folder(tmp_path) == tmp_path / "pretrain" / "final"
    (tmp_path / "align" / "final" / "config.json").write_text("{}")
    assert find_model_folder(tmp_path) == tmp_path / "align" / "final"
    assert find_model_folder(tmp_path / "pretrain") == tmp_path / "pretrain" / "final"


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_chat_model(tmp_path / "gone")
    with pytest.raises(UserError, match=r"looked for config\.json, align/final, pretrain/final"):
        load_chat_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_what_is_no_file_is_not_said_to_be_missing(
    model_dir: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    (tmp_path / "model" / name).mkdir()
    with pytest.raises(UserError, match=f"file-kind.*{name} - is a folder"):
        load_chat_model(tmp_path / "model")


def test_a_model_outlives_its_files(model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_dir, tmp_path / "m")
    prompt = load_chat_model(folder).encode_prompt([{"role": "user", "content": "Olá"}])
    before = "".join(load_chat_model(folder).answer(prompt, 4, Sampling()))
    chat_model = load_chat_model(folder)
    assert not is_mapped(folder / "model.safetensors")
    for path in folder.iterdir():
        path.write_bytes(b"")
    assert chat_model.encode_prompt([{"role": "user", "content": "Olá"}]) == prompt
    assert "".join(chat_model.answer(prompt, 4, Sampling())) == before


def test_models_are_named_by_as_little_of_their_path_as_tells_them_apart() -> None:
    names = model_names([Path("/home/ana/a/final"), Path("/home/ana/b/final"), Path("/x/c.gguf")])
    assert names == ["a/final", "b/final", "x/c.gguf"]
    assert model_names([Path("/home/ana/a/final")]) == ["final"]
