from __future__ import annotations

from pathlib import Path

from support.report_run import build_run, make_page, section_text, write_stage


def test_measured_and_modelled_energy_are_separate(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    write_stage(
        run_dir,
        "pretrain",
        energy_kwh={"gpu_measured": 12.66, "cpu_modelled": 1.65, "ram_modelled": 1.21},
        duration_s=3600.0,
    )
    text = section_text(make_page(run_dir, usd_per_gpu_hour=1.29), "energy")
    for part in ("12.66 kWh", "1.65 kWh", "1.21 kWh", "GPU (measured)", "CPU (modelled)", "$1.29"):
        assert part in text


def test_energy_of_a_gpu_is_not_shown_where_there_is_none(tmp_path: Path) -> None:
    text = section_text(make_page(build_run(tmp_path)), "energy")
    assert "No GPU was measured." in text
    assert "GPU (measured)" not in text
    assert "CPU (modelled)" in text
