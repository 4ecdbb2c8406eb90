"""`ttl new`, `ttl storybook` and `ttl plan --calibrate` in any language; one line an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from teenytinyllama.cli.app import app
from teenytinyllama.errors import UserError
from teenytinyllama.settings.recipe import Recipe, load_recipe
from teenytinyllama.synthetic import dataset as synthetic

runner = CliRunner()
CPU = ["--gpu", "cpu", "--hours", "1"]


def ttl(*words: str | Path) -> str:
    done = runner.invoke(app, [str(word) for word in words])
    if done.exception is not None:
        raise done.exception
    return str(done.output)


def clean(tmp_path: Path, language: str = "gl", number: int = 150) -> Path:
    path = tmp_path / "clean.txt"
    made = synthetic.documents(num_documents=number, language=language)
    path.write_text("\n\n".join(one.text for one in made), encoding="utf-8")
    return path


def new(tmp_path: Path, *words: str | Path) -> Recipe:
    out = tmp_path / "new.toml"
    ttl("new", *CPU, "--text-mb", "50", "--out", out, *words)
    return load_recipe(out)


@pytest.mark.parametrize("language", ["gl", "bn"])
def test_a_language_with_a_folder_needs_no_sample(tmp_path: Path, language: str) -> None:
    recipe = new(tmp_path, "--language", language)
    assert recipe.language == language
    assert recipe.corpus is not None
    assert recipe.corpus.filters.thresholds == {}
    assert recipe.evaluate is not None
    assert [task.kind for task in recipe.evaluate.tasks] == ["cloze"]
    assert recipe.align is None


def test_a_language_without_a_folder_learns_from_its_sample(tmp_path: Path) -> None:
    recipe = new(tmp_path, "--language", "wo", "--clean-sample", clean(tmp_path))
    assert recipe.corpus is not None
    assert recipe.tokenizer is not None
    filters = recipe.corpus.filters
    assert "language" not in filters.families  # py3langid knows no Wolof
    assert filters.thresholds["gopher_enough_stop_words"] == 2
    assert {"de", "a", "o"} <= set(filters.stop_words)
    assert set("áéíóúñ") <= set(recipe.tokenizer.required_letters)


def test_a_known_language_keeps_its_filter(tmp_path: Path) -> None:
    recipe = new(tmp_path, "--language", "gl", "--clean-sample", clean(tmp_path))
    assert recipe.corpus is not None
    assert "language" in recipe.corpus.filters.families


def test_a_sample_in_another_language_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "yo.toml"
    asked = ["--language", "yo", "--clean-sample", clean(tmp_path), "--text-mb", "50"]
    said = ttl("new", *asked, *CPU, "--out", out)
    assert re.search(r'takes only 0% of the sample for "yo", \d+% for "(gl|pt|es)"', said)
    recipe = load_recipe(out)
    assert recipe.corpus is not None
    assert "language" not in recipe.corpus.filters.families


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--language", "yo"], "language-unknown"),
        (["--language", "português"], "language-code"),
        (["--language", "PT"], "language-code"),
        (["--language", "yo", "--clean-sample", "none.txt"], "calibrate-unreadable"),
        (["--language", "yo", "--clean-sample", "SMALL"], "sample-small"),
        (["--language", "yo", "--clean-sample", "EMPTY"], "calibrate-empty"),
        (["--language", "gl", "--chat", "none/*.jsonl"], "chat-missing"),
        (["--language", "gl", "--text", "none/**"], "text-missing"),
        (["--language", "gl", "--gpu", "gtx"], "gpu-unknown"),
        (["--language", "gl", "--sequence-length", "3"], "plan-value"),
        (["--language", "gl", "--sequence-length", "0"], "plan-value"),
        (["--language", "gl", "--name", "a b"], "run-name"),
    ],
)
def test_bad_input_is_one_error(tmp_path: Path, words: list[str], code: str) -> None:
    (tmp_path / "SMALL").write_text("Unha frase.\n\nOutra frase.")
    (tmp_path / "EMPTY").write_text(" \n")
    here = [str(tmp_path / word) if word.isupper() and word != "PT" else word for word in words]
    with pytest.raises(UserError) as error:
        new(tmp_path, *here)
    assert error.value.code == code
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new.toml").exists()


def chinese(tmp_path: Path) -> Path:
    """Documents of 1,200 characters, written as people write them: no spaces."""
    random = Random(1)
    signs = [chr(0x4E00 + n) for n in range(1200)]
    weights = [1 / (place + 10) for place in range(1200)]

    def sentence() -> str:
        return "".join(random.choices(signs, weights, k=25)) + "。"

    texts = ["".join(sentence() for _ in range(12)) for _ in range(400)]
    (tmp_path / "clean.txt").write_text("\n\n".join(texts[:150]), encoding="utf-8")
    (tmp_path / "zh").mkdir()
    rows = "".join(json.dumps({"content": text}) + "\n" for text in texts)
    (tmp_path / "zh" / "a.jsonl").write_text(rows, encoding="utf-8")
    return tmp_path / "zh"


def test_files_whose_text_is_in_fields_of_other_names_are_a_source_each(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "mais").mkdir(parents=True)
    texts = [f"A raposa número {n} mora na floresta, e gosta de {n} histórias." for n in range(60)]
    (folder / "a.csv").write_text("corpo;n\n" + "".join(f"{t};1\n" for t in texts[:20]))
    rows = "".join(json.dumps({"content": text}) + "\n" for text in texts[20:40])
    (folder / "mais" / "b.jsonl").write_text(rows)
    for number, text in enumerate(texts[40:]):
        (folder / f"{number}.txt").write_text(text)
    out = tmp_path / "r.toml"
    asked = ["--language", "pt", "--text", folder, "--license", "CC0-1.0"]
    ttl("new", *asked, *CPU, "--text-mb", "50", "--out", out, "--name", "r")
    recipe = load_recipe(out)
    assert recipe.corpus is not None
    keys = {Path(one.path).name: one.text_key for one in recipe.corpus.sources}
    assert keys == {"*.csv": "corpo", "*.jsonl": "content", "*.txt": "text"}
    ttl("corpus", out, "--run-dir", tmp_path / "run", "--set", "corpus.filters.families=[]")
    manifest = json.loads((tmp_path / "run" / "corpus" / "manifest.json").read_text())
    assert manifest["counts"]["documents_read"] == 60


def test_the_recipe_for_ones_own_chinese_text_runs(tmp_path: Path) -> None:
    out = tmp_path / "zh.toml"
    asked = ["--language", "zh", "--text", chinese(tmp_path), "--out", out, "--name", "zh"]
    said = ttl("new", *asked, *CPU, "--text-mb", "50", "--clean-sample", tmp_path / "clean.txt")
    assert 'The licence of the text is "unknown"' in said
    recipe = load_recipe(out)
    assert recipe.tokenizer is not None
    assert recipe.corpus is not None
    assert recipe.tokenizer.vocab_size >= 1200 + 264
    assert recipe.corpus.sources[0].text_key == "content"
    assert 'license = "unknown"' in next(
        row for row in out.read_text(encoding="utf-8").splitlines() if row.startswith("sources")
    )
    assert "nothing found that would stop it" in ttl("check", out)
    ttl("corpus", out, "--run-dir", tmp_path / "run")
    ttl("tokenizer", out, "--run-dir", tmp_path / "run")
    counts = json.loads((tmp_path / "run" / "corpus" / "manifest.json").read_text())["counts"]
    assert counts["licenses"] == {"unknown": counts["documents_kept"]}
    assert counts["documents_kept"] > 390


def test_the_licence_is_that_of_text_and_chats(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"messages": []}\n')
    recipe = new(
        tmp_path, "--language", "gl", "--license", "CC0-1.0", "--chat", tmp_path / "c.jsonl"
    )
    assert recipe.corpus is not None
    assert recipe.align is not None
    assert [recipe.corpus.sources[0].license, recipe.align.sources[0].license] == ["CC0-1.0"] * 2


def test_what_would_stop_the_run_is_said_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = clean(tmp_path, number=600)
    ttl("new", *CPU, "--language", "gl", "--text", text, "--out", tmp_path / "new.toml")
    said = caplog.text
    assert "error[corpus-empty]" in said
    assert "is one document" in said
    assert "Next: correct that, then ttl run" in said


def test_a_recipe_is_never_overwritten(tmp_path: Path) -> None:
    new(tmp_path, "--language", "gl")
    with pytest.raises(UserError) as error:
        new(tmp_path, "--language", "gl")
    assert error.value.code == "recipe-exists"


def test_the_storybook_as_files(tmp_path: Path) -> None:
    made = ["--documents", "5", "--conversations", "3"]
    ttl("storybook", "--language", "bn", "--out", tmp_path, *made)
    text = (tmp_path / "text" / "storybook.jsonl").read_text(encoding="utf-8").splitlines()
    chat = (tmp_path / "chat" / "storybook.jsonl").read_text(encoding="utf-8").splitlines()
    assert (len(text), len(chat)) == (5, 3)
    assert "।" in json.loads(text[0])["text"]
    assert json.loads(chat[0])["messages"][0]["role"] == "user"
    assert json.loads(text[0])["text"] in (tmp_path / "clean.txt").read_text(encoding="utf-8")
    with pytest.raises(UserError) as error:
        ttl("storybook", "--language", "yo", "--out", tmp_path, *made)
    assert error.value.code == "storybook-language"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        ttl("storybook", "--language", "gl", "--out", tmp_path / "file" / "below", *made)
    assert error.value.code == "storybook-unwritable"


def test_scaling_runs_need_time_and_a_recipe(tmp_path: Path) -> None:
    asked = ["plan", *CPU, "--text-mb", "50", "--calibrate"]
    with pytest.raises(UserError) as error:
        ttl(*asked, tmp_path / "none.toml", "--minutes", "0")
    assert error.value.code == "plan-value"
    with pytest.raises(UserError) as error:
        ttl(*asked, tmp_path / "none.toml")
    assert error.value.code == "recipe-missing"


def test_every_command_of_the_guide_exists() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "my-language.md").read_text(encoding="utf-8")
    typed = re.findall(r"^ttl (.+)$", guide, re.MULTILINE)
    assert len(typed) >= 10
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for line in typed:
        name, *words = line.split()
        known = {option for one in commands[name].params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
