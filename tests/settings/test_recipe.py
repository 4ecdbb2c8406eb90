import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from teenytinyllama.errors import UserError
from teenytinyllama.settings.post_training import EvaluateSettings, FinetuneSettings
from teenytinyllama.settings.recipe import Recipe, load_recipe

GOOD = """
name = "small"

[corpus]
sources = [{ kind = "storybook", license = "Apache-2.0" }]

[pretrain]
num_steps = 10
model = { hidden_size = 64, num_attention_heads = 4 }
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def error_of(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return caught.value


def test_what_a_recipe_leaves_out_has_its_default(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.pretrain.num_steps == 10
    assert recipe.pretrain.model.num_hidden_layers == 12
    assert recipe.tokenizer is None


def test_overrides_are_toml_and_may_add_a_section(write):
    path = write(GOOD)
    recipe = load_recipe(
        path, ["pretrain.optimizer.peak_learning_rate=3e-4", "tokenizer.vocab_size=500", "name=b"]
    )
    assert recipe.pretrain.optimizer.peak_learning_rate == 3e-4
    assert recipe.tokenizer.vocab_size == 500
    assert recipe.name == "b"


def test_a_misspelt_key_gets_a_suggestion_and_its_line(write):
    error = error_of(write(GOOD.replace("num_steps", "num_stps")))
    assert error.code == "recipe-unknown-key"
    assert error.where.endswith("recipe.toml:8:pretrain.num_stps")
    assert error.fix == 'did you mean "num_steps"?'


def test_a_misspelt_required_setting_is_named(write):
    error = error_of(write(GOOD.replace("sources =", "sorces =")))
    assert error.code == "recipe-unknown-key" and error.fix == 'did you mean "sources"?'


def test_an_unclosed_bracket_says_where_to_close_it(write):
    error = error_of(write(GOOD.replace('"Apache-2.0" }]', '"Apache-2.0" }')))
    assert error.fix == "add the missing , or ] before it"


@pytest.mark.parametrize("given", ["pretrian.num_steps=5", "pretrain.modle.hidden_size=64"])
def test_a_misspelt_section_in_set_is_not_blamed_on_the_file(write, given):
    error = error_of(write(GOOD), given)
    wrong = given.partition("=")[0].rpartition(".")[0]
    assert (error.code, error.where) == ("recipe-unknown-key", f"--set {wrong}")


def test_what_the_file_has_is_not_blamed_on_set(write):
    error = error_of(write(GOOD + "[corpsu]\nx = 1\n"), "corpsu.y=2")
    assert "recipe.toml:" in error.where and error.where.endswith(":corpsu")


@pytest.mark.parametrize(
    "field", ["tokenizer.vocab_size", "finetune.max_length", "corpus.decontamination_words"]
)
def test_no_number_is_beyond_what_torch_holds(write, field):
    tasks = 'finetune.tasks=[{ name = "a", kind = "storybook" }]'
    error = error_of(write(GOOD), tasks, f"{field}={10**20}")
    assert error.where == f"--set {field}" and "less than or equal to" in error.what


def test_a_misspelt_stage_gets_a_suggestion(write):
    assert (
        error_of(write(GOOD.replace("[pretrain]", "[pretrian]"))).fix == 'did you mean "pretrain"?'
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"3e-4"', "valid number"),
        ("-0.1", "greater than 0"),
        ("inf", "finite number"),
        ("true", "valid number"),
    ],
)
def test_a_wrong_value_names_what_is_expected(write, value, words):
    error = error_of(write(GOOD), f"pretrain.optimizer.peak_learning_rate={value}")
    assert error.code == "recipe-value"
    assert error.where == "--set pretrain.optimizer.peak_learning_rate"
    assert words in error.what


@pytest.mark.parametrize("value", ["true", "10.5", '"10"', "0"])
def test_an_integer_is_an_integer(write, value):
    assert error_of(write(GOOD), f"pretrain.num_steps={value}").code == "recipe-value"


def test_settings_that_conflict_name_values_that_fit(write):
    error = error_of(write(GOOD), "pretrain.tokens_per_step=300000")
    assert "300000 is not a multiple of sequence_length = 2048; nearest: 299008 or 301056" in (
        error.what
    )
    error = error_of(write(GOOD), "pretrain.model.num_attention_heads=5")
    assert "hidden_size = 64 is not a multiple of num_attention_heads = 5" in error.what


def test_a_key_for_conversations_is_refused_for_preferences(write):
    source = '{ kind = "files", path = "p.jsonl", answer_key = "best" }'
    align = f'[align]\nsources = [{{ kind = "storybook" }}]\npreferences = [{source}]\n'
    error = error_of(write(GOOD + align))
    assert "preferences.0.answer_key is for conversations" in error.what


def test_several_errors_are_counted(write):
    error = error_of(write(GOOD), "pretrain.num_steps=0", "pretrain.log_every_steps=0")
    assert "(and 1 more)" in error.what


def test_invalid_toml_missing_files_and_bad_overrides(write, tmp_path):
    assert error_of(write("name = ")).code == "recipe-syntax"
    assert error_of(tmp_path / "absent.toml").code == "recipe-missing"
    assert error_of(write(GOOD), "pretrain.num_steps").code == "set-syntax"
    assert error_of(write(GOOD), "name.x=1").code == "set-syntax"


def test_a_recipe_that_is_not_utf8_names_the_line_and_how_to_write_it(tmp_path):
    path = tmp_path / "o meu.toml"
    path.write_bytes(("# raposa\n# ação\n" + GOOD).encode("cp1252"))
    error = error_of(path)
    assert (error.code, error.where) == ("recipe-syntax", f"{path}:2")
    subprocess.run(error.fix.partition(",")[0], shell=True, check=True)
    assert load_recipe(path)


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("pretrain.num_steps=1e3", "num_steps = 1000"),
        ('pretrain.num_steps="200"', "num_steps = 200"),
        ("pretrain.num_steps=0.5", "correct pretrain.num_steps"),
        ("pretrain.num_steps=[]", "correct pretrain.num_steps"),
        ("pretrain.optimizer.peak_learning_rate=0,001", "peak_learning_rate = 0.001"),
        ("corpus.replace_personal_data=True", "replace_personal_data = true"),
        ("language=pt-BR", 'language = "pt"'),
        ("name=Olá mundo", 'name = "Ola-mundo"'),
        ("name=///", "correct name"),
    ],
)
def test_a_wrong_value_names_the_nearest_right_one(value, fix, write):
    assert error_of(write(GOOD), value).fix == fix


def test_a_setting_that_is_missing_is_to_be_added(write):
    assert error_of(write("")).fix == "add name = ..."


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_editors_on_windows_are_read(encoding, tmp_path):
    path = tmp_path / "r.toml"
    path.write_bytes(GOOD.replace("\n", "\r\n").encode(encoding))
    assert load_recipe(path)


@pytest.mark.parametrize("folder", [r"C:\Users\ana", r"C:\textos"])
def test_a_path_of_windows_says_how_to_write_it(write, folder):
    source = f'[corpus]\nsources = [{{ kind = "files", path = "{folder}\\pt" }}]\n'
    error = error_of(write(f'name = "x"\n{source}'))
    assert error.code == "recipe-syntax"
    assert "write / for each" in error.fix


def test_deeply_nested_brackets_are_an_error(write):
    error = error_of(write("a = " + "[" * 100_000))
    assert error.code == "recipe-syntax"
    assert "nested too deep" in error.what


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"a." * 30_000 + b"b = 1", "more than 60 parts"),
        (b"[" + b"a . " * 30_000 + b"b]", "more than 60 parts"),
        (b"[corpus]\nmin_document_bytes = " + b"9" * 5000, "5000 digits"),
        (b'name = "\xff"', "not UTF-8"),
    ],
)
def test_a_recipe_that_cannot_be_read_in_time_is_an_error(tmp_path, data, what):
    path = tmp_path / "r.toml"
    path.write_bytes(data)
    error = error_of(path)
    assert error.code == "recipe-syntax"
    assert what in error.what


@pytest.mark.parametrize("override", ["a." * 5000 + "b=1", "a=" + "[" * 5000, "a=" + "9" * 5000])
def test_an_override_without_measure_is_an_error(write, override):
    assert error_of(write(GOOD), override).code in ("set-syntax", "recipe-unknown-key")


@pytest.mark.parametrize("value", ["1e400", "-1e400", "nan"])
def test_infinite_numbers_are_errors(write, value):
    error = error_of(write(GOOD), f"pretrain.optimizer.peak_learning_rate={value}")
    assert error.code == "recipe-value"
    assert "finite number" in error.what


def test_a_quoted_number_is_an_error(write):
    error = error_of(write(GOOD.replace("num_steps = 10", 'num_steps = "3e-4"')))
    assert error.where.endswith("recipe.toml:8:pretrain.num_steps")
    assert 'got "3e-4"' in error.what


@pytest.mark.parametrize("precision", ["fp16", "bf16"])  # whose weights round small updates away
def test_an_unknown_precision_names_the_known_ones(write, precision):
    error = error_of(write(GOOD), f'pretrain.precision="{precision}"')
    assert error.code == "recipe-value"
    assert "bf16-mixed" in error.what


def test_every_setting_has_a_description():
    def fields(model, path=""):
        for name, field in model.model_fields.items():
            yield f"{path}{name}", field.description
            for option in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(option, type) and hasattr(option, "model_fields"):
                    yield from fields(option, f"{path}{name}.")

    silent = [name for name, description in fields(Recipe) if not description]
    assert silent == []


def test_local_evaluation_tasks_are_decontaminated(tmp_path: Path) -> None:
    (tmp_path / "exam").mkdir()
    (tmp_path / "exam" / "test.jsonl").write_text("{}")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\n[corpus]\nsources = [{ kind = "storybook" }]\n[evaluate]\ntasks = [\n'
        f'{{ name = "exam", path = "{tmp_path}/exam", num_fewshot = 5 }},\n'
        '{ name = "far", kind = "hub", path = "owner/far" },\n'
        '{ name = "tale", kind = "storybook" },\n]\n'
    )

    def kept_out(*changes: str) -> list[tuple[str, str, int]]:
        corpus = load_recipe(recipe, changes).corpus
        assert corpus is not None
        return [(task.name, task.path, task.num_fewshot) for task in corpus.decontaminate]

    assert kept_out() == [("exam", f"{tmp_path}/exam", -1)]  # another prompt, the same corpus
    assert kept_out("corpus.decontaminate_evaluate=false") == []
    mine = f"corpus.decontaminate=[{{ name = 'mine', path = '{tmp_path}/exam' }}]"
    assert kept_out(mine) == [("mine", f"{tmp_path}/exam", -1)]


@pytest.mark.parametrize("stage", ["evaluate", "finetune"])
def test_num_items_is_an_error_where_all_are_used(stage):
    settings = {"evaluate": EvaluateSettings, "finetune": FinetuneSettings}[stage]
    task = {"name": "arc_pt", "path": "tasks/arc", "num_items": 60}
    with pytest.raises(ValidationError, match='num_items = 60 has no effect for kind "files"'):
        settings(tasks=(task,))
    assert settings(tasks=({**task, "kind": "storybook"},)).tasks[0].num_items == 60
    resolved = settings(tasks=({"name": "arc_pt", "path": "tasks/arc"},)).model_dump()
    assert settings(**resolved).tasks[0].path == "tasks/arc", "as in a manifest"


@pytest.mark.parametrize(
    "override",
    [
        "pretrain.num_steps=100000000000000000000",
        "pretrain.seed=9223372036854775808",
        "pack.seed=18446744073709551616",
        "pretrain.model.max_position_embeddings=1000000000000",
        "pretrain.model={hidden_size=66, num_attention_heads=2}",
    ],
)
def test_numbers_that_no_run_can_use_are_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\n[pack]\n[pretrain]\n')
    with pytest.raises(UserError) as error:
        load_recipe(path, [override])
    assert error.value.code == "recipe-value"
    assert override.split("=")[0] in error.value.where


def test_an_override_reaches_into_a_list(write):
    recipe = load_recipe(write(GOOD), ["corpus.sources.0.num_documents=7"])
    assert recipe.corpus.sources[0].num_documents == 7
    assert recipe.corpus.sources[0].license == "Apache-2.0"
    for place in ("1", "-1", "first"):
        error = error_of(write(GOOD), f"corpus.sources.{place}.num_documents=7")
        assert f'"{place}" is none of the 1 items of corpus.sources' in error.what
        assert error.fix == "--set corpus.sources.0.num_documents=7"
