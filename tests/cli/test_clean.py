"""`ttl clean` lists what was set aside, and removes it only where that is said."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.command_line import SMALL_RECIPE, log_of, ttl


def test_clean_lists_and_removes(tmp_path: Path) -> None:
    recipe, run = tmp_path / "r.toml", tmp_path / "run"
    recipe.write_text(SMALL_RECIPE)
    for options in ((), ("--redo",)):
        ttl("corpus", recipe, "--run-dir", run, *options)
    aside = run / ".previous" / "corpus" / "1"
    listed = ttl("clean", run)
    assert f"  {aside}  (result of corpus)" in listed.stdout
    assert f"`ttl clean {run} --yes` removes them." in listed.stderr
    assert aside.is_dir()
    before = (run / "corpus" / "manifest.json").read_bytes()
    ttl("clean", run, "--yes")
    assert not aside.exists()
    assert (run / "corpus" / "manifest.json").read_bytes() == before
    assert log_of("clean", run) == "Nothing to remove."
    shutil.rmtree(run)
    assert log_of("clean", run, code=2).startswith("error[run-missing]")
