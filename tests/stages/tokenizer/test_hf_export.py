from __future__ import annotations

import json
from pathlib import Path

import pytest

from teenytinyllama.artifacts.conversations import CHAT_TEMPLATE, SPECIAL_IDS
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.stages.tokenizer import hf_export


def test_auto_tokenizer_has_roles_special_tokens_and_template(small_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(small_tokenizer_dir)
    encoder = load_tokenizer(small_tokenizer_dir)
    assert (len(loaded), loaded.is_fast) == (640, True)
    ids = (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    assert ids == (0, 1, 2, 3)
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded("A raposa").input_ids == [1, *encoder.encode("A raposa")]
    text = "um <s> e um <|user|>"
    # Literal special tokens are read by default, as the chat template needs, but can be split.
    assert SPECIAL_IDS["<|user|>"] in loaded(text).input_ids
    plain = loaded(text, split_special_tokens=True, add_special_tokens=False).input_ids
    assert plain == encoder.encode(text)
    saved = json.loads((small_tokenizer_dir / "tokenizer_config.json").read_bytes())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize("text", ["a▁b", "▁", "▁▁ marca ▁", "  a ▁", "ไป▁ตลาด"])
def test_a_literal_space_mark_has_the_same_ids_in_every_form(
    text: str, small_tokenizer_dir: Path
) -> None:
    from transformers import AutoTokenizer

    ids = load_tokenizer(small_tokenizer_dir).encode(text)
    loaded = AutoTokenizer.from_pretrained(small_tokenizer_dir)
    assert loaded(text, add_special_tokens=False).input_ids == ids
    assert loaded.decode(ids) == load_tokenizer(small_tokenizer_dir).decode(ids) == text


def test_different_ids_are_an_error(small_tokenizer_dir: Path, tmp_path: Path) -> None:
    model = (small_tokenizer_dir / "tokenizer.model").read_bytes()
    data = json.loads((small_tokenizer_dir / "tokenizer.json").read_bytes())
    data["model"]["merges"] = data["model"]["merges"][50:]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer-unequal.*tokenizer.json gives"):
        hf_export.verify_equal_ids(model, tmp_path, ["A raposa mora na floresta."])


def test_text_that_decodes_differently_is_shown(
    small_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (small_tokenizer_dir / "tokenizer.model").read_bytes()
    monkeypatch.setattr(hf_export.TextEncoder, "decode", lambda self, ids: "?")
    with pytest.raises(UserError, match=r'tokenizer-round-trip\] tokenizer, text "a\\u00e7"'):
        hf_export.verify_equal_ids(model, small_tokenizer_dir, ["aç"])
