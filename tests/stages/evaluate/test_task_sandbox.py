"""Task files run no code, and their templates cannot leave the sandbox."""

from __future__ import annotations

import lm_eval.utils
import pytest
from support.benchmark_items import write_split
from support.own_task import PLAIN, load_own_task, prompts

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.task_loading import load_benchmark


def test_underscores_outside_braces_are_allowed(tmp_path):
    blank = load_own_task(tmp_path, doc_to_text="{{question}} ____ é a resposta de __Maria__.")
    assert prompts(blank)[0].endswith(" ____ é a resposta de __Maria__.")


CODE = {
    "function": "doc_to_text: !function evil.run\n",
    "quoted include": '"include": more.yaml\n',
    "list of includes": "include: [plain.yaml, more.yaml]\n",
    "merged include": "x: &x {include: more.yaml}\n<<: *x\n",
    "python tag": "doc_to_text: !!python/name:os.system ''\n",
    "insides": 'doc_to_text: "{{ cycler.__init__.__globals__ }}"\n',
    "escaped insides": 'doc_to_text: "{{ cycler.\\x5f\\x5finit\\x5f\\x5f }}"\n',
    "attr": "doc_to_text: \"{{ cycler | attr('x') }}\"\n",
    "metric from the Hub": "metric_list: [{metric: x, hf_evaluate: true}]\n",
}


@pytest.mark.parametrize("case", CODE)
def test_task_file_with_code_is_refused(case, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('this was run')\n")
    (tmp_path / "more.yaml").write_text("doc_to_text: !function evil.run\n")
    (tmp_path / "plain.yaml").write_text("task: x\n")
    (tmp_path / "own.yaml").write_text(CODE[case])
    write_split(tmp_path, "test", [PLAIN])
    task = Task(name="own", path=str(tmp_path), definition=str(tmp_path / "own.yaml"))
    with pytest.raises(UserError) as caught:
        load_benchmark(task)
    assert caught.value.code == "task-code"


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler['_' ~ '_init_' ~ '_'] }}",
        "{{ cycler['\\x5f\\x5finit\\x5f\\x5f'] }}",
    ],
)
def test_template_that_assembles_a_dunder_name_is_refused(template, tmp_path):
    with pytest.raises(UserError, match=r"task-prompt.*(SecurityError|unsafe|undefined)"):
        load_own_task(tmp_path, doc_to_text=template)


def test_filter_with_an_assembled_name_finds_nothing(tmp_path):
    template = "{{ [cycler] | map(attribute='_' ~ '_class_' ~ '_') | list }}"
    assert "class" not in prompts(load_own_task(tmp_path, doc_to_text=template))[0]


def test_harness_keeps_its_own_template_environment(tmp_path):
    before = lm_eval.utils.env
    prompts(load_own_task(tmp_path))
    assert lm_eval.utils.env is before
