"""`ttl plan` and `ttl doctor` on the command line."""

import json
import subprocess
import sys
import time

from support.command_line import RECIPE, log_of, ttl


def test_plan_prints_json_without_torch():
    code = (
        "import sys\n"
        "from teenytinyllama.cli.app import app\n"
        "sys.argv = ['ttl', 'plan', '--budget-usd', '50', '--text-mb', '5000', '--json']\n"
        "app(standalone_mode=False)\n"
        "loaded = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 10  # under 1 s on a quiet machine
    plan = json.loads(done.stdout)
    assert plan["parameters"] > 1e8
    assert plan["expected"]["low"] < plan["expected"]["loss"] < plan["expected"]["high"]


def test_plan_takes_the_utilisation_as_a_run_prints_it():
    """0.34 in a manifest, 34 % in a progress line."""
    options = ("--gpu", "h100", "--hours", "5", "--gpus", "8", "--json")
    plans = [json.loads(ttl("plan", *options, "--mfu", mfu).stdout) for mfu in ("0.34", "34 %")]
    assert plans[0] == plans[1]
    assert plans[0]["request"]["mfu"] == 0.34
    assert plans[0]["request"]["scaling_efficiency"] == 0.9
    assert "--mfu" in log_of("plan", *options, "--mfu", "much", code=2)


def test_plan_shows_infinities_as_null():
    plan = json.loads(ttl("plan", "--gpu", "cpu", "--hours", "5", "--json").stdout)
    assert plan["request"]["different_words"] is None


def test_plan_names_the_wrong_option():
    assert log_of("plan", "--hours", "1", "--law", "hofman", code=2) == (
        'error[law-unknown] --law - no law "hofman" - fix: did you mean "hoffmann"?'
    )


def test_doctor_prints_json_and_a_table(tmp_path):
    report = json.loads(ttl("doctor", "--run-dir", tmp_path, "--json").stdout)
    table = ttl("doctor", "--run-dir", tmp_path).stdout
    assert f"Next: {report['next_command']}" in table


def test_plan_says_what_a_recipe_takes():
    path = RECIPE.with_name("paper-460m.toml")
    cost = json.loads(ttl("plan", path, "--json").stdout)
    counts = ("parameters", "tokens", "flops", "num_steps", "vocab_size", "disk_bytes")
    assert all(type(cost[name]) is int for name in counts)
    assert cost["parameters"] == 468_239_360
    table = ttl("plan", path).stdout
    assert "468,239,360 parameters" in table
    line = log_of("plan", path, "--hours", "1", code=2)
    assert line.startswith("error[over-budget]")
