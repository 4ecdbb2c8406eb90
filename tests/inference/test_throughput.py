"""`ttl bench`: rates, the table, and errors before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.small_run import make_run

from teenytinyllama.errors import UserError
from teenytinyllama.inference import throughput
from teenytinyllama.inference.throughput import BenchmarkCase


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (BenchmarkCase("161m"), "model-missing"),
        (BenchmarkCase("160m", precision="fp16"), "bench-precision"),
        (BenchmarkCase("160m", batch=0), "bench-value"),
        (BenchmarkCase("160m", new_tokens=1), "bench-value"),
    ],
)
def test_wrong_cases_are_errors_before_anything_is_measured(case: BenchmarkCase, code: str) -> None:
    with pytest.raises(UserError) as error:
        throughput.run(cases=[case])
    assert error.value.code == code


def test_rates_come_from_the_times_of_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path)
    # 2 prompts of 10 tokens prefilled in 0.5 s, then 4 more tokens each in 2 s.
    monkeypatch.setattr(throughput, "one_run", lambda *given: (0.5, 2.0))
    row = throughput.measure(
        BenchmarkCase(str(run_dir), batch=2, prompt_tokens=10, new_tokens=5, num_repeats=3)
    )
    assert row["first_token_ms"] == {"median": 500.0, "min": 500.0, "max": 500.0}
    assert row["prefill_tokens_per_s"]["median"] == 40.0
    assert row["generation_tokens_per_s"]["median"] == 4.0


def test_prompt_and_answer_must_fit_in_the_context(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="132 tokens, the model's context is 64"):
        throughput.measure(BenchmarkCase(str(make_run(tmp_path)), prompt_tokens=100, new_tokens=32))


def test_the_table_has_a_line_per_case() -> None:
    row = {
        "model": "160m",
        "precision": "bf16",
        "batch": 16,
        "prompt_tokens": 128,
        "new_tokens": 64,
        "first_token_ms": {"median": 12.34, "min": 11.0, "max": 20.6},
        "prefill_tokens_per_s": throughput.spread([100.0]),
        "generation_tokens_per_s": throughput.spread([1.0, 3.0]),
        "peak_memory_mb": 512.4,
        "energy_mwh_per_1000_tokens": 1.234,
    }
    *_, line = throughput.table([row]).splitlines()
    assert line.split("  ")[-1].strip() == "1.23"
    assert "12.3 (11 to 21)" in line and "2.0 (1 to 3)" in line and " 512 " in line


@pytest.mark.slow
def test_a_case_is_measured_in_its_own_process(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    path = tmp_path / "rows.json"
    case = BenchmarkCase(str(run_dir), prompt_tokens=8, new_tokens=4, num_repeats=2, num_threads=1)
    text = throughput.run(cases=[case], json_path=path)
    assert "generation tokens/s" in text
    saved = json.loads(path.read_text())
    assert saved["machine"]["num_cpus"] and saved["rows"][0]["generation_tokens_per_s"]["min"] > 0
