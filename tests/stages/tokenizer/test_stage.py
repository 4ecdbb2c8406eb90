from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from teenytinyllama.artifacts.conversations import CHAT_TEMPLATE, SPECIAL_IDS, SPECIAL_TOKENS
from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.tokenizer import hf_export
from teenytinyllama.stages.tokenizer import sentencepiece_training as training
from teenytinyllama.stages.tokenizer import stage as tokenizer
from teenytinyllama.stages.tokenizer.sentencepiece_training import Sample
from teenytinyllama.stages.tokenizer.tokenizer_metrics import Measure, open_tokenizer, table_row

FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
VOWELS = "aeiou aeeioou aeiiouu eioua"  # enough different pairs for 300 pieces


def write_corpus(folder: Path, texts: list[str], heldout: str = "Um texto à parte.") -> Path:
    with DocumentWriter(folder, "train") as train, DocumentWriter(folder, "heldout") as apart:
        for index, text in enumerate(texts):
            train.write(Document(str(index), text, "a" if index % 2 else "b", "CC0-1.0"))
        apart.write(Document("h", heldout, "a", "CC0-1.0"))
    return folder


def run_stage(
    corpus_dir: Path, out_dir: Path, context: StageContext, **settings: object
) -> tuple[dict[str, object], dict[str, object]]:
    out_dir.mkdir(exist_ok=True)
    return tokenizer.run(
        settings=TokenizerSettings.model_validate(settings),
        context=context,
        out_dir=out_dir,
        corpus_dir=corpus_dir,
    )


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def test_the_pieces_stand_where_every_stage_expects_them(small_tokenizer_dir: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(small_tokenizer_dir / "tokenizer.model")
    )
    assert [model.id_to_piece(i) for i in range(7)] == list(SPECIAL_TOKENS)
    assert [model.id_to_piece(7 + i) for i in range(256)] == [f"<0x{i:02X}>" for i in range(256)]
    assert model.vocab_size() == 640
    assert all(model.is_control(i) for i in range(1, 7))
    assert not any(len(p) > 1 and any(c.isdigit() for c in p) for p in pieces_after_bytes(model))


def pieces_after_bytes(model: sentencepiece.SentencePieceProcessor) -> list[str]:
    return [model.id_to_piece(i) for i in range(263, model.vocab_size())]


def test_equal_documents_give_equal_bytes(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    run_stage(small_corpus_dir, tmp_path, stage_context, vocab_size=640)
    assert hashes(tmp_path) == hashes(small_tokenizer_dir)


def test_counts_and_figures_add_up(
    small_corpus_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    counts, metrics = run_stage(small_corpus_dir, tmp_path, stage_context, vocab_size=640)
    assert counts["documents_read"] == counts["documents_trained_on"] == 120
    assert counts["vocab_size"] == 640
    assert counts["texts_compared"] == 120 + len(hf_export.EDGE_TEXTS)
    total, source = metrics["all"], metrics["sources"]["storybook"]
    assert total == source
    assert total["num_documents"] == 12
    assert total["unknown_fraction"] == 0
    assert 1 < total["tokens_per_word"] == total["num_tokens"] / total["num_words"] < 4


@pytest.mark.parametrize("model", ["bpe", "unigram", "byte-level"])
def test_hugging_face_gives_the_same_ids(
    model: str, small_corpus_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    counts, _ = run_stage(small_corpus_dir, tmp_path, stage_context, vocab_size=500, model=model)
    assert counts["tokens_compared"] > 10_000  # the stage itself compares, and stops if unequal
    fast = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert fast.encode("oi").ids[0] == SPECIAL_IDS["<s>"]
    assert fast.decode(fast.encode(" Lila  viu\n").ids, skip_special_tokens=True) == " Lila  viu\n"


def test_auto_tokenizer_knows_roles_marks_and_template(small_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(small_tokenizer_dir)
    encoder = load_tokenizer(small_tokenizer_dir)
    assert (len(loaded), loaded.is_fast) == (640, True)
    ids = (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    assert ids == (0, 1, 2, 3)
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded("A raposa").input_ids == [1, *encoder.encode("A raposa")]
    text = "um <s> e um <|user|>"
    # By default written-out tokens count, which the chat template needs; said once, they do not.
    assert SPECIAL_IDS["<|user|>"] in loaded(text).input_ids
    plain = loaded(text, split_special_tokens=True, add_special_tokens=False).input_ids
    assert plain == encoder.encode(text)
    saved = json.loads((small_tokenizer_dir / "tokenizer_config.json").read_bytes())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_difference_stops_the_stage(small_tokenizer_dir: Path, tmp_path: Path) -> None:
    model = (small_tokenizer_dir / "tokenizer.model").read_bytes()
    data = json.loads((small_tokenizer_dir / "tokenizer.json").read_bytes())
    data["model"]["merges"] = data["model"]["merges"][50:]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer-unequal.*tokenizer.json gives"):
        hf_export.prove_equal(model, tmp_path, ["A raposa mora na floresta."])


def test_words_count_once_per_window() -> None:
    counts = training.count_words(["a b a a", "a " * (training.WORDS_PER_WINDOW + 1)])
    assert counts == Counter({" a": 3, " b": 1})


def test_words_take_the_line_end_and_the_spaces_before() -> None:
    text = "fim.\n\n  Novo\tcampo\r\n"
    assert sorted(training.count_words([text])) == ["\n", "  Novo", " fim.\n\n", "campo"]


def test_line_ends_join_the_sign_before_and_never_the_word_after(
    stage_context: StageContext, tmp_path: Path
) -> None:
    corpus_dir = write_corpus(tmp_path / "c", [f"Ele viu {VOWELS}.\nEla viu.\n"] * 50)
    run_stage(corpus_dir, tmp_path / "t", stage_context, vocab_size=300)
    encoder = load_tokenizer(tmp_path / "t")
    pieces = encoder.tokens
    assert ".\n" in pieces
    assert not [p for p in pieces if "\n" in p.rstrip("\n")]


def test_rare_words_are_left_out_only_where_enough_remain() -> None:
    counts = Counter({f"w{i}": 3 for i in range(2400)} | {"twice": 2, "once": 1})
    assert len(training.without_rare_words(counts, vocab_size=300)) == 2400
    kept = training.without_rare_words(counts, vocab_size=301)
    assert {"once", "twice"} <= set(kept)


def test_a_sample_is_spread_evenly(tmp_path: Path) -> None:
    corpus_dir = write_corpus(tmp_path, [f"{i:010d}" for i in range(100)])
    sample = Sample(corpus_dir, "train", 250)
    assert sample.num_bytes_read == 1000
    assert [int(t) for t in sample.texts()] == list(range(3, 100, 4))
    assert (sample.num_documents_kept, sample.num_bytes_kept) == (25, 250)


def test_a_huge_line_and_a_huge_word_are_trained_on(
    stage_context: StageContext, tmp_path: Path
) -> None:
    line = f"a raposa viu a casa {VOWELS} " * 20_000 + "x" * 300_000
    corpus_dir = write_corpus(tmp_path / "c", [line])
    counts, _ = run_stage(corpus_dir, tmp_path / "t", stage_context, vocab_size=300)
    assert counts["bytes_trained_on"] == len(line)
    assert "▁a" in load_tokenizer(tmp_path / "t").tokens


def test_measure_counts_by_hand(small_tokenizer_dir: Path) -> None:
    encoder = load_tokenizer(small_tokenizer_dir)
    measure = Measure()
    measure.add("汉 汉", encoder)  # space, 3 bytes, space, 3 bytes
    metrics = measure.metrics()
    assert (metrics["num_words"], metrics["num_bytes"], metrics["num_tokens"]) == (2, 7, 8)
    assert (metrics["num_byte_tokens"], metrics["byte_fallback_fraction"]) == (6, 0.75)
    assert metrics["tokens_per_word"] == 4


def test_of_bytes_the_parts_of_a_letter_are_makeshift(small_bytes_tokenizer_dir: Path) -> None:
    measure = Measure()
    measure.add("x 汉", load_tokenizer(small_bytes_tokenizer_dir))  # x, space, 3 bytes
    metrics = measure.metrics()
    assert (metrics["num_tokens"], metrics["num_byte_tokens"]) == (5, 3)
    row = table_row(open_tokenizer("bytes", small_bytes_tokenizer_dir), "x 汉")
    assert (row["byte_fallback_fraction"], row["is_lossless"]) == (0.6, True)


def test_table_1_sets_other_tokenizers_beside_ours(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Lila é uma raposa.\n汉字\n", encoding="utf-8")
    against = (str(small_tokenizer_dir), str(small_tokenizer_dir / "tokenizer.model"))
    _, metrics = run_stage(
        small_corpus_dir,
        tmp_path / "t",
        stage_context,
        vocab_size=640,
        measure_text=str(text),
        measure_against=against,
    )
    rows = metrics["table_1"]
    assert [row.pop("tokenizer") for row in rows] == ["this run", *against]
    assert rows[0] == rows[1] == rows[2]  # the same vocabulary, in both forms
    assert (rows[0]["num_words"], rows[0]["is_lossless"]) == (5, True)
    assert rows[0]["byte_fallback_fraction"] == 6 / rows[0]["num_tokens"]
    assert rows[0]["unknown_fraction"] == 0


@pytest.mark.parametrize(
    ("content", "code"), [(None, "measure-missing"), (b"\x80\x04}.", "measure-unreadable")]
)
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: bytes | None, code: str) -> None:
    for name in ("x.model", "tokenizer.json"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            open_tokenizer("x", tmp_path / name)
        assert caught.value.code == code
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


# --- what a user can get wrong (reliability.md, 40 to 49) --------------------------------------


@pytest.mark.parametrize(("model", "most"), [("bpe", 309), ("byte-level", 282)])
def test_vocabulary_larger_than_the_corpus_allows(
    model: str, most: int, stage_context: StageContext, tmp_path: Path
) -> None:
    corpus_dir = write_corpus(tmp_path / "c", ["o rato roeu a roupa do rei de roma"] * 3)
    with pytest.raises(UserError) as caught:
        run_stage(corpus_dir, tmp_path / "t", stage_context, vocab_size=5000, model=model)
    assert caught.value.code == "vocabulary-too-large"
    assert f"at most {most} fit" in str(caught.value)
    run_stage(corpus_dir, tmp_path / "t", stage_context, vocab_size=most, model=model)


def test_no_words(stage_context: StageContext, tmp_path: Path) -> None:
    corpus_dir = write_corpus(tmp_path / "c", ["\t\t", "\t"])
    with pytest.raises(UserError, match=r"tokenizer-no-text.*hold no words"):
        run_stage(corpus_dir, tmp_path / "t", stage_context, vocab_size=300)


def test_letters_that_coverage_drops_are_listed(
    stage_context: StageContext, tmp_path: Path
) -> None:
    text = f"a raposa viu a casa e a casa viu a raposa {VOWELS} " * 50 + "ç" * 30
    corpus_dir = write_corpus(tmp_path / "c", [text + f" {word}" for word in ("çx", "çy")])
    with pytest.raises(UserError, match=r"letters-dropped.*2 letters of the text.*x 1, y 1"):
        run_stage(
            corpus_dir, tmp_path / "t", stage_context, vocab_size=300, character_coverage=0.98
        )


def test_too_little_memory_names_the_sample_that_fits() -> None:
    needed = training.estimated_memory_bytes(500_000_000)
    training.check_memory(500_000_000, needed)
    with pytest.raises(UserError, match=r"tokenizer-memory.*--set tokenizer") as caught:
        training.check_memory(500_000_000, needed // 2)
    fitting = int(caught.value.fix.split("=")[1])
    training.check_memory(fitting, needed // 2)


def test_a_text_that_does_not_come_back_is_shown(
    small_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (small_tokenizer_dir / "tokenizer.model").read_bytes()
    monkeypatch.setattr(hf_export.TextEncoder, "decode", lambda self, ids: "?")
    with pytest.raises(UserError, match=r'tokenizer-round-trip\] tokenizer, text "a\\u00e7"'):
        hf_export.prove_equal(model, small_tokenizer_dir, ["aç"])
