"""The advice of errors, typed: the same command then works, or comes to the next thing to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.advice import Advice, error_of, follow

import teenytinyllama
from teenytinyllama.synthetic import dataset as synthetic

ROOT = Path(teenytinyllama.__file__).parent
PLAN = "ttl plan --gpu cpu --hours 1 --text-mb 50"
NEW = "ttl new --language gl --gpu cpu --hours 1 --text-mb 50 --out new.toml"
STORYBOOK = 'name = "r"\n[corpus]\nsources = [{ kind = "storybook", num_documents = 60 }]\n'
RECIPE = {"r.toml": STORYBOOK}


def clean_sample(folder: Path) -> None:
    texts = (one.text for one in synthetic.documents(num_documents=120, language="gl"))
    (folder / "clean.txt").write_text("\n\n".join(texts), encoding="utf-8")


def other_run(folder: Path) -> None:
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "run.json").write_text('{"name": "other"}')


ENOUGH = [("cpu", "--hours 50", ""), ("h100", "--hours 50", ""), ("h100", "--hours 0.002", "")]
ROWS = [
    # planning
    Advice("gpu-unknown", "ttl plan --gpu A100 --hours 9 --text-mb 50", wrong="--gpu A100"),
    Advice("gpu-unknown", "ttl plan --gpu a100 --hours 1 --text-mb 50", wrong="--gpu a100"),
    Advice("law-unknown", f"{PLAN} --law hofman", wrong="hofman"),
    Advice("plan-budget", "ttl plan --text-mb 50"),
    Advice("plan-price", "ttl plan --gpu cpu --budget-usd 5 --text-mb 50"),
    *(
        Advice("plan-value", f"{PLAN} {option} {value}", wrong=f"{option} {value}")
        for option, value in (
            ("--max-epochs", "0"), ("--mfu", "2"),
            ("--scaling-efficiency", "0"), ("--gpus", "0"), ("--tokens", "-1"),
            ("--peak-tflops", "0"), ("--sequence-length", "3"), ("--usd-per-hour", "-1"),
        )
    ),
    Advice("plan-value", "ttl plan --hours 1 --text-mb -5", wrong="--text-mb -5"),
    Advice("plan-value", "ttl plan --gpu cpu --hours 0 --text-mb 5", wrong="--hours 0"),
    Advice("plan-value", "ttl plan --budget-usd 0 --text-mb 500", wrong="--budget-usd 0"),
    Advice("plan-value", "ttl plan --hours 1 --text-mb 0", wrong="--text-mb 0"),
    Advice("country-unknown", f"{PLAN} --country XXX", wrong="--country XXX"),
    *(
        Advice("plan-too-small", f"ttl plan --gpu {gpu} {budget} {text}")
        for gpu in ("cpu", "h100")
        for budget in ("--hours 0.000001", "--hours 0.002", "--hours 50")
        for text in ("--text-mb 0.001", "--text-mb 0.015", "--tokens 20", "")
        if (gpu, budget, text) not in ENOUGH
    ),
    Advice("plan-too-small", "ttl plan --budget-usd 0.000001 --text-mb 0.01"),
    # new
    Advice("language-code", NEW.replace(" gl ", " GL "), wrong="--language GL"),
    Advice(
        "language-unknown", NEW.replace(" gl ", " wo "),
        stands_for={"FILE": "clean.txt"}, prepare=clean_sample,
    ),
    Advice("recipe-exists", NEW, {"new.toml": "", "new-2.toml": ""}, wrong="--out new.toml"),
    Advice("run-name", f"{NEW} --name olá/mundo", wrong="--name olá/mundo"),
    Advice("over-budget", "ttl plan r.toml --budget-usd 0.01",
           {"r.toml": STORYBOOK + "[pretrain]\n"}, wrong="--budget-usd 0.01"),
    # settings
    Advice("recipe-missing", "ttl check none.toml", wrong="none.toml", then="source-empty"),
    Advice("recipe-missing", "ttl check t.toml", RECIPE, wrong="t.toml"),
    Advice("recipe-unknown-key", "ttl check r.toml", {"r.toml": STORYBOOK + "heldout = 0.1\n"},
           wrong="heldout"),
    Advice("set-syntax", "ttl check r.toml --set pretrain", RECIPE, wrong="--set pretrain"),
    Advice("preset-unknown", "ttl check r.toml",
           {"r.toml": STORYBOOK.replace('"storybook"', '"hub", preset = "wikipedi"')},
           wrong="wikipedi"),
    Advice("stage-unknown", "ttl settings pretrian", wrong="pretrian"),
    # checks before a run
    Advice("vocabulary-too-small", "ttl check r.toml",
           {"r.toml": f'{STORYBOOK}[tokenizer]\nvocab_size = 265\nrequired_letters = "abcdef"\n'}),
    # pipeline
    Advice("stage-not-in-recipe", "ttl tokenizer r.toml", RECIPE, then="stage-not-run"),
    Advice("stage-not-run", "ttl tokenizer r.toml --run-dir elsewhere",
           {"r.toml": f"{STORYBOOK}[tokenizer]\nvocab_size = 400\n"}),
    Advice("run-of-other-recipe", "ttl corpus r.toml --run-dir runs/a", RECIPE,
           wrong="--run-dir runs/a", prepare=other_run),
]  # fmt: skip

# Folders whose codes must all have a row above, or stand here with the reason.
COVERED = ("planning", "settings")
NOTHING_TO_TYPE = {
    "text-empty": "asks for other files",
    "text-missing": "asks for another path",
    "text-unreadable": "asks for another file",
    "chat-missing": "asks for another path",
    "recipe-unwritable": "asks for another folder",
    "recipe-syntax": "asks to edit a line that it names",
    "scaling-runs-few": "asks for more time: `--minutes` as it was, or more",
    "scaling-runs-text": "asks for more text",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code}: {row.command}")
def test_what_an_error_says_to_type_helps(
    row: Advice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in row.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    if row.prepare:
        row.prepare(tmp_path)
    error = error_of(row.command)
    assert error is not None, "the command works"
    assert error.code == row.code, error
    command = follow(row, error)
    after = error_of(command)
    assert (after.code if after else "") == row.then, f"after {error.fix!r}: {command}: {after}"


def test_every_code_has_a_row_or_a_reason() -> None:
    known = {row.code for row in ROWS} | set(NOTHING_TO_TYPE)
    raised = {code for folder in COVERED for code in codes_in(ROOT / folder)}
    assert len(raised) > 15
    assert raised - known == set()


def codes_in(folder: Path) -> set[str]:
    """The codes of the errors that modules of a folder make, where they are written out."""
    calls = (
        node
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError"
    )
    firsts = (call.args[0] for call in calls)
    return {one.value for one in firsts if isinstance(one, ast.Constant)}
