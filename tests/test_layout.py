"""Tests mirror the tree.

The test of `a/b/c.py` is `tests/a/b/test_c.py`; that of the package `a/b` is `tests/a/b/test_b.py`.
"""

import ast
from pathlib import Path

import teenytinyllama

ROOT = Path(teenytinyllama.__file__).parent
TESTS = Path(__file__).parent

# Modules without a test file of their own, each with the reason.
TESTED_ELSEWHERE = {
    "cli/__main__.py": "one call of main; every test in cli/ that starts `ttl` goes through it",
    "artifacts/conversations.py": "rendered in artifacts/test_tokenizer.py, checked in "
    "artifacts/test_conversation_layouts.py",
    "errors.py": "doctests, and cli/test_main.py with the exit codes",
    "settings/post_training.py": "declarations, checked in settings/test_recipe.py",
    "settings/pretraining.py": "declarations, checked in settings/test_recipe.py",
    "settings/training.py": "declarations, checked in settings/test_recipe.py",
    "stages/corpus/corpus_writer.py": "the end of stages/corpus/test_stage.py",
    "stages/report/number_format.py": "doctests",
    "stages/report/page_blocks.py": "data that stages/report/test_renderers.py renders",
    "synthetic/instructions.py": "synthetic/test_dialogues.py",
    "synthetic/phrasing.py": "synthetic/test_stories.py",
    "synthetic/word_forms.py": "synthetic/test_stories.py",
    "training/cpu/attention.py": "training/cpu/test_layers.py compares it with plain attention",
}
# Tests in the folders of modules that belong to no single module, each with the reason.
OF_MANY_MODULES = {
    "publishing/test_canaries.py": "secrets planted everywhere must not leave the machine",
    "publishing/test_malicious.py": "attacks on all that reads untrusted files",
    "serving/test_app_with_gguf.py": "app and llama.cpp worker together",
    "serving/test_random_requests.py": "the whole server beside a well-behaved client",
    "stages/evaluate/test_architectures.py": "every suite on tiny models of other architectures",
    "stages/evaluate/test_untrained_scores.py": "untrained models on every task file",
    "serving/test_page.py": "JavaScript and HTML in serving/page/",
    "serving/test_page_in_browser.py": "JavaScript and HTML in serving/page/",
}


def has_code(path):
    """False for a package's `__init__.py` that only describes, declares or re-exports."""
    if path.name != "__init__.py":
        return True
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)


def mirrored_test(module):
    """The mirrored test of a module, both relative to their roots."""
    stem = module.parent.name if module.name == "__init__.py" else module.stem
    return module.parent / f"test_{stem}.py"


MODULES = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py")) if has_code(path)]


def test_every_module_has_its_test_file():
    without = {str(one) for one in MODULES if not (TESTS / mirrored_test(one)).is_file()}
    assert sorted(without - set(TESTED_ELSEWHERE)) == [], "add tests, or a reason to the list"
    assert sorted(set(TESTED_ELSEWHERE) - without) == [], "these have a test or are gone"


def test_every_test_file_has_its_module():
    mirrored = {mirrored_test(one) for one in MODULES}
    found = {
        path.relative_to(TESTS)
        for path in TESTS.rglob("test_*.py")
        if path.parent != TESTS  # tests of the whole program
    }
    other = {str(one) for one in found - mirrored}
    assert sorted(other - set(OF_MANY_MODULES)) == [], "move them, or add a reason to the list"
    assert sorted(set(OF_MANY_MODULES) - other) == [], "these mirror a module or are gone"
