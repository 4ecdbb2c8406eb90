"""What the corpus stage would fail on, before it runs."""

import subprocess
import sys

import pytest
from support.recipe_checks import STORYBOOK, problems


def corpus(tmp_path, body):
    return problems(tmp_path, f"[corpus]\n{body}", "corpus")


def test_a_sound_corpus_has_no_problem(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("Um texto.")
    source = f'{{ kind = "files", path = "{tmp_path}/*.txt", license = "unknown" }}'
    assert corpus(tmp_path, f"sources = [{source}]") == {}
    alone = source.replace("*", "a")
    assert corpus(tmp_path, f"sources = [{alone}]").keys() == {"corpus-empty"}
    assert corpus(tmp_path, STORYBOOK) == {}


def test_plain_text_needs_a_licence_in_the_recipe(tmp_path):
    for name in ("a.txt", "a2.txt"):
        (tmp_path / name).write_text("Um texto.")
    (tmp_path / "b.jsonl").write_text('{"text": "x", "license": "MIT"}\n')
    for name, codes in (("a*.txt", {"license-missing"}), ("b.jsonl", set())):
        source = f'{{ kind = "files", path = "{tmp_path}/{name}" }}'
        assert corpus(tmp_path, f"sources = [{source}]").keys() == codes


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('sources = [{ kind = "files", path = "none/*.txt" }]', "source-empty"),
        ('sources = [{ kind = "hub", preset = "none" }]', "preset-unknown"),
        (STORYBOOK + "filters = { thresholds = { gopher_short = 3 } }", "filter-unknown"),
        (STORYBOOK + 'filters = { language_model = "none.bin" }', "language-model-missing"),
        (
            STORYBOOK + 'filters.quality_classifier = { labels_path = "a.csv" }',
            "file-unreadable",
        ),
        (STORYBOOK + 'filters.quality_classifier = { clean_path = "no" }', "calibrate-unreadable"),
        (STORYBOOK + 'filters.toxicity = { clean_path = "none" }', "calibrate-unreadable"),
        (STORYBOOK + 'decontaminate = [{ name = "x", path = "none" }]', "task-missing"),
    ],
)
def test_each_problem_is_found(tmp_path, body, code):
    assert corpus(tmp_path, body).keys() == {code}


@pytest.mark.parametrize(
    ("language", "code", "says"),
    [
        ("xx", "language-code", 'no language "xx"'),
        ("por", "language-code", 'has two letters: "pt"'),
        ("es", "language-without-filters", "bn, gl, pt"),
    ],
)
def test_a_helper_language_must_exist_and_have_data(tmp_path, language, code, says):
    source = f'{{ kind = "storybook", language = "{language}" }}'
    found = corpus(tmp_path, f"sources = [{source}]")
    assert found.keys() == {code}
    assert "corpus.sources.0.language" in found[code]
    assert says in found[code]


def test_all_problems_are_found_at_once(tmp_path):
    body = (
        'sources = [{ kind = "files", path = "none" }]\n'
        'filters = { without = ["nothing"], language_model = "none.bin" }'
    )
    assert set(corpus(tmp_path, body)) == {
        "source-empty",
        "filter-unknown",
        "language-model-missing",
    }


def test_the_checks_load_neither_torch_nor_sentencepiece():
    code = (
        "import importlib, sys\n"
        "from teenytinyllama.pipeline.registry import STAGES\n"
        "[importlib.import_module(one.checks_module) for one in STAGES if one.has_checks]\n"
        "loaded = {'torch', 'transformers', 'sentencepiece', 'sklearn'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_that_are_all_empty_are_named(tmp_path):
    for name in ("a.jsonl", "b.txt"):
        (tmp_path / name).touch()
    source = f'{{ kind = "files", path = "{tmp_path}/*", license = "unknown" }}'
    (found,) = corpus(tmp_path, f"sources = [{source}]").values()
    assert "a.jsonl - is empty, and so are 1 more" in str(found)
