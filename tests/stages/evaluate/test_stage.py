"""The evaluate stage: folders in, scores out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.ranks import in_ranks
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.data_preparation import PackSettings, TokenizerSettings
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.post_training import EvaluateSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.evaluate import stage
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.pack import stage as pack
from teenytinyllama.stages.tokenizer import stage as tokenizer
from teenytinyllama.synthetic import dataset as synthetic

CONTEXT = StageContext("test", "pt", EnergySettings(), EnergyMeter(EnergySettings()))
MODEL = ModelSettings(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpus, tokenizer, tokens and a random model, as the earlier stages leave them."""
    root = tmp_path_factory.mktemp("run")
    found = synthetic.documents(seed=0, num_documents=220)
    documents = [
        Document(id=d.id, text=d.text, source=d.kind, license=synthetic.LICENSE) for d in found
    ]
    for split, part in (("train", documents[:200]), ("heldout", documents[200:])):
        with DocumentWriter(root / "corpus", split) as writer:
            for document in part:
                writer.write(document)
    folders = {"corpus_dir": root / "corpus", "tokenizer_dir": root / "tokenizer"}
    for name in ("tokenizer", "pack"):
        (root / name).mkdir()
    tokenizer.run(
        settings=TokenizerSettings(vocab_size=600),
        context=CONTEXT,
        out_dir=root / "tokenizer",
        corpus_dir=root / "corpus",
    )
    pack.run(settings=PackSettings(), context=CONTEXT, out_dir=root / "pack", **folders)
    final = root / "pretrain" / "final"
    config = llama_config(MODEL, 600, bos_id=1, eos_id=2, pad_id=3)
    build_model(config, seed=0).save_pretrained(final)
    for path in (root / "tokenizer").iterdir():
        shutil.copy(path, final)
    return root


def run(
    run_dir: Path,
    out_dir: Path,
    pretrain_dir: Path | None = None,
    context: StageContext = CONTEXT,
    **settings,
):
    out_dir.mkdir(exist_ok=True, parents=True)
    return stage.run(
        settings=EvaluateSettings(**settings),
        context=context,
        out_dir=out_dir,
        corpus_dir=run_dir / "corpus",
        tokenizer_dir=run_dir / "tokenizer",
        pack_dir=run_dir / "pack",
        pretrain_dir=pretrain_dir or run_dir / "pretrain",
    )


def test_heldout_text_and_tasks_are_scored(run_dir, tmp_path):
    tasks = (Task(name="storybook", kind="storybook", num_items=40),)
    counts, metrics = run(run_dir, tmp_path / "scores", tasks=tasks)
    assert counts["documents_heldout"] == 20
    assert counts["items"] == 40
    # A random model is about uniform: ln 600 a token.
    assert metrics["heldout_perplexity"] == pytest.approx(600, rel=0.1)
    assert 1 < metrics["bigram_bits_per_byte"] < metrics["heldout_bits_per_byte"] < 8
    assert 1 < metrics["xz_bits_per_byte"] < 8
    assert metrics["heldout_leaks_exact"] == 0
    score = metrics["tasks"]["storybook"]
    assert score["chance"] == 0.25
    assert score["at_chance"]
    assert score["num_items"] == 40
    written = json.loads((tmp_path / "scores" / "base" / "storybook.json").read_text())
    assert written["accuracy"] == score["accuracy"]
    assert len(written["items"]) == 40


def test_heldout_copy_in_training_text_is_counted(run_dir, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(run_dir / "corpus", corpus)
    with DocumentWriter(corpus, "train") as writer:
        text = next(iter(stage.read_documents(run_dir / "corpus", "heldout"))).text
        writer.write(Document(id="x", text=text, source="s", license="l"))
    (tmp_path / "scores").mkdir()
    result = stage.run(
        settings=EvaluateSettings(),
        context=CONTEXT,
        out_dir=tmp_path / "scores",
        corpus_dir=corpus,
        tokenizer_dir=run_dir / "tokenizer",
        pack_dir=run_dir / "pack",
        pretrain_dir=run_dir / "pretrain",
    )
    assert result.metrics["heldout_leaks_exact"] == 1


def test_other_models_and_checkpoints_are_scored(run_dir, tmp_path):
    """The last checkpoint has the base model's weights: the same scores, one cache file."""
    pretrain = tmp_path / "run" / "pretrain"
    shutil.copytree(run_dir / "pretrain", pretrain)
    for step, seed in ((10, 1), (20, 0)):
        folder = pretrain / f"step-{step:07d}"
        shutil.copytree(pretrain / "final", folder)
        config = llama_config(MODEL, 600, bos_id=1, eos_id=2, pad_id=3)
        build_model(config, seed=seed).save_pretrained(folder)
        progress = {"step": step, "tokens": step * 100, "energy": [0.0, step / 1000, 0.0, 0.0]}
        (folder / "state.json").write_text(json.dumps({"progress": progress}))
        digest = sha256_file(folder / "model.safetensors")
        files = {"model.safetensors": {"bytes": 1, "sha256": digest}}
        (folder / "manifest.json").write_text(json.dumps({"files": files}))
    result = run(
        run_dir,
        tmp_path / "run" / "evaluate",
        pretrain,
        tasks=(Task(name="storybook", kind="storybook", num_items=10),),
        models=(str(pretrain / "step-0000010"),),
        checkpoints=True,
        check_overlap=False,
    )
    metrics = result.metrics
    first, last = metrics["checkpoints"]
    assert (first["step"], first["tokens"], last["tokens"]) == (10, 1000, 2000)
    assert last["heldout_bits_per_byte"] == metrics["heldout_bits_per_byte"]
    assert last["tasks"] == metrics["tasks"]
    assert first["heldout_bits_per_byte"] != last["heldout_bits_per_byte"]
    [other] = metrics["models"].values()
    # Its own tokenizer is the run's in Hugging Face form: the same ids, the same score.
    assert other["heldout_bits_per_byte"] == pytest.approx(first["heldout_bits_per_byte"])
    assert other["tasks"] == first["tasks"]
    answered = list((tmp_path / "run" / ".cache" / "evaluate").glob("*.jsonl"))
    assert len(answered) == 2, "two different models, one file each"
    assert (tmp_path / "run" / "evaluate" / "step-0000020" / "storybook.json").is_file()


def test_heldout_score_has_an_interval(run_dir, tmp_path, caplog):
    metrics = run(run_dir, tmp_path / "scores", check_overlap=False).metrics
    low, high = metrics["heldout_bits_per_byte_interval95"]
    assert low < metrics["heldout_bits_per_byte"] < high
    sources = metrics["by_source"].values()
    assert all(one["heldout_bits_per_byte_interval95"] for one in sources)
    few = metrics["heldout_interval_over"] == "windows"
    assert few == ("say little of other text" in caplog.text)


@pytest.mark.parametrize(("count", "units"), [(3, "windows"), (20, "documents")])
def test_few_heldout_documents_are_warned_of(run_dir, tmp_path, count, units, caplog):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = [f"A casa número {n} fica na rua. " * (3 + n % 4) for n in range(count)]
    for split in ("train", "heldout"):
        with DocumentWriter(corpus, split) as writer:
            for number, text in enumerate(texts):
                writer.write(Document(id=f"{split}{number}", text=text, source="s", license="x"))
    metrics = stage.run(
        settings=EvaluateSettings(check_overlap=False),
        context=CONTEXT,
        out_dir=tmp_path,
        corpus_dir=corpus,
        tokenizer_dir=run_dir / "tokenizer",
        pack_dir=run_dir / "pack",
        pretrain_dir=run_dir / "pretrain",
    ).metrics
    assert metrics["heldout_interval_over"] == units
    assert ("the held-out text is 3 documents" in caplog.text) == (count == 3)


def test_damaged_checkpoint_is_an_error(run_dir, tmp_path):
    pretrain = tmp_path / "run" / "pretrain"
    shutil.copytree(run_dir / "pretrain" / "final", pretrain / "step-0000010")
    files = {"model.safetensors": {"bytes": 1, "sha256": "0"}}
    (pretrain / "step-0000010" / "manifest.json").write_text(json.dumps({"files": files}))
    with pytest.raises(UserError, match=r"checkpoint-damaged.*step-0000010 - its model"):
        run(run_dir, tmp_path / "scores", pretrain, checkpoints=True, check_overlap=False)


def test_missing_checkpoints_are_an_error(run_dir, tmp_path):
    with pytest.raises(UserError, match="checkpoints-missing"):
        run(run_dir, tmp_path / "scores", checkpoints=True, check_overlap=False)


def score_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.json"))}


def test_killed_evaluation_does_not_repeat_finished_work(run_dir, tmp_path, monkeypatch):
    """Killed before its tasks; the second run repeats nothing and writes the same bytes."""
    tasks = (Task(name="storybook", kind="storybook", num_items=4),)
    other = (str(run_dir / "pretrain" / "final"),)
    whole = run(run_dir, tmp_path / "whole", tasks=tasks, models=other)

    def killed(*_, **__):
        raise KeyboardInterrupt

    def again(*_, **__):
        pytest.fail("computed before")

    with monkeypatch.context() as patch:
        patch.setattr(stage.task_runner, "score_tasks", killed)
        with pytest.raises(KeyboardInterrupt):
            run(run_dir, tmp_path / "killed", tasks=tasks, models=other)
    kept = json.loads((tmp_path / "killed" / "base" / "heldout.json").read_text())
    assert kept["heldout_bits_per_byte"] == whole.metrics["heldout_bits_per_byte"]
    with monkeypatch.context() as patch:
        for name in ("_baselines", "check_contamination"):
            patch.setattr(stage, name, again)
        score = stage.score_documents
        scored = []
        patch.setattr(stage, "score_documents", lambda *a, **k: scored.append(1) or score(*a, **k))
        resumed = run(run_dir, tmp_path / "killed", tasks=tasks, models=other)
    assert len(scored) == 1, "only the model after the kill"
    assert resumed == whole
    files = [score_files(tmp_path / name) for name in ("whole", "killed")]
    assert files[0] == files[1]


@pytest.mark.parametrize("change", ["weights", "texts", "settings", "damaged"])
def test_changed_input_is_scored_again(run_dir, tmp_path, monkeypatch, change):
    pretrain = tmp_path / "pretrain"
    shutil.copytree(run_dir / "pretrain", pretrain)
    scored = []
    score = stage.score_documents
    monkeypatch.setattr(
        stage, "score_documents", lambda *a, **k: scored.append(1) or score(*a, **k)
    )
    options = {"max_heldout_documents": 2, "check_overlap": False}
    out_dir = tmp_path / "scores"

    def once(**more):
        run(run_dir, out_dir, pretrain, **{**options, **more})

    once()
    once()
    assert len(scored) == 1
    if change == "weights":
        config = llama_config(MODEL, 600, bos_id=1, eos_id=2, pad_id=3)
        build_model(config, seed=5).save_pretrained(pretrain / "final")
    elif change == "damaged":
        (out_dir / "base" / "heldout.json").write_text("[1")
    more = {"texts": {"max_heldout_documents": 1}, "settings": {"batch_tokens": 64}}
    once(**more.get(change, {}))
    assert len(scored) == 2


def test_models_with_the_same_folder_are_refused(run_dir, tmp_path):
    for models_ in (("base",), ("./x", "x"), ("a/b", "a--b")):
        with pytest.raises(UserError, match=r"model-name.*has those of another"):
            run(run_dir, tmp_path / "scores", models=models_)


def test_contamination_and_equal_choices_are_logged_and_stored(run_dir, tmp_path, capfd):
    text = next(iter(stage.read_documents(run_dir / "corpus", "train"))).text.split()
    assert len(text) >= 16
    rows = [{"question": f"{i} curta?", "choices": ["a", "b"], "answer": 0} for i in range(97)]
    rows += [{"question": f"{i} igual?", "choices": ["a", "a"], "answer": 0} for i in range(1)]
    seen = {"question": " ".join(text[:8]), "choices": ["x", " ".join(text[8:16])], "answer": 1}
    new = {"question": "palavra " * 20, "choices": ["x", "y"], "answer": 1}
    folder = tmp_path / "items"
    folder.mkdir()
    lines = [json.dumps(row) for row in (*rows, seen, new)]
    (folder / "test.jsonl").write_text("\n".join(lines))
    task = Task(name="minha", path=str(folder), definition="storybook")
    metrics = run(run_dir, tmp_path / "scores", tasks=(task,)).metrics["tasks"]["minha"]
    assert (metrics["contaminated_items"], metrics["contaminated_fraction"]) == (1, 0.5)
    assert metrics["items_too_short_to_check"] == 98
    assert metrics["num_equal_choices"] == 1
    logged = capfd.readouterr().err
    assert "it/s" not in logged, "the harness shows no bar beside ours"
    assert "minha: 1 of 2 items share 13 words in a row with the training text; 98 are" in logged
    assert "1 items have equal choices" in logged


def test_unknown_tokens_of_another_tokenizer_are_counted(run_dir, tmp_path, capfd):
    words = ["<unk>", "<s>", "</s>", "o", "a", "de"]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    folder = tmp_path / "other"
    config = llama_config(MODEL, 600, bos_id=1, eos_id=2, pad_id=3)
    build_model(config, seed=0).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    options = {"check_overlap": False, "max_heldout_documents": 2}
    metrics = run(run_dir, tmp_path / "scores", models=(str(folder),), **options).metrics
    [other] = metrics["models"].values()
    assert other["num_unknown_tokens"] > 10
    assert "num_unknown_tokens" not in metrics
    assert (
        f"{other['num_unknown_tokens']:,} tokens of the held-out text are unknown"
        in capfd.readouterr().err
    )


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_the_files_of_one(run_dir, tmp_path, count):
    tasks = (
        Task(name="storybook", kind="storybook", num_items=12),
        Task(name="lacunas", kind="cloze", num_items=12),
    )
    settings = {"tasks": tasks, "batch_tokens": 256}
    alone = run(run_dir, tmp_path / "alone" / "evaluate", **settings)

    def work(rank):
        context = replace(CONTEXT, processes=ProcessGroup())
        return run(run_dir, tmp_path / "shared" / "evaluate", context=context, **settings)

    for found in in_ranks(count, work):
        assert found == alone
    files = [
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name / "evaluate").rglob("*.json")
        }
        for name in ("alone", "shared")
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 4
