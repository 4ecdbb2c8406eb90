"""F13: a run killed midway and gone on with one setting changed is the run made so from the start.

    python bench/faults/changed_settings.py [--trials 20]

Corpus, tokenizer and pack on a small made corpus. Each trial kills `ttl run` (SIGKILL), runs it
again with another setting, and compares every file with a fresh run of that setting. What was made
with the old setting must not be taken for the new one's, nor the stages before it made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("corpus", "tokenizer", "pack")
SYLLABLES = [a + b for a in "bcdfglmnprstv" for b in "aeiou"]
# One changed setting each, and the first stage that it concerns.
CHANGES = (
    ("corpus.heldout_fraction=0.1", "corpus"),
    ("corpus.min_document_bytes=300", "corpus"),
    ("corpus.unicode_form='NFKC'", "corpus"),
    ("corpus.heldout_fraction=0.05", "corpus"),
    ("corpus.replace_personal_data=false", "corpus"),
    ("corpus.near_duplicates.threshold=0.95", "corpus"),
    ("corpus.near_duplicates.ngram_words=12", "corpus"),
    ("corpus.repeated_paragraphs.max_documents=1", "corpus"),
    ("corpus.mix.epochs={ a = 2.0 }", "corpus"),
    ("corpus.filters.families=['quality']", "corpus"),
    ("tokenizer.vocab_size=600", "tokenizer"),
    ("tokenizer.vocab_size=900", "tokenizer"),
    ("tokenizer.model='unigram'", "tokenizer"),
    ("tokenizer.model='byte-level'", "tokenizer"),
    ("tokenizer.max_training_bytes=100000", "tokenizer"),
    ("tokenizer.max_training_bytes=50000", "tokenizer"),
    ("pack.seed=1", "pack"),
    ("pack.order='best-fit'", "pack"),
    ("pack.epochs={ a = 1.5 }", "pack"),
    ("pack.epochs={ b = 0.5 }", "pack"),
)
ORDER = ("corpus", "tokenizer", "pack")


def make_corpus(folder: Path) -> None:
    rng, last = random.Random(0), ""
    for name in ("a", "b"):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(400):
                length = rng.randrange(20, 200)
                words = ["".join(rng.choices(SYLLABLES, k=rng.randrange(1, 4)))] * (number % 3)
                words += ["".join(rng.choices(SYLLABLES, k=2)) for _ in range(length)]
                text = " ".join(words) + "\nUm rodapé que se repete em todas as páginas daqui: ½.\n"
                text += "Fale com ana@exemplo.com.br.\n" * (number % 5 == 0)
                if number % 7 == 0 and number:
                    text = last.replace(" ", " outra ", 1)
                file.write(json.dumps({"text": text}) + "\n")
                last = text


def start(recipe: Path, run_dir: Path, *changes: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "teenytinyllama.cli", "run", str(recipe)]
    sets = [part for change in changes for part in ("--set", change)]
    return subprocess.Popen(
        [*command, "--run-dir", str(run_dir), *sets],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def finish(recipe: Path, run_dir: Path, *changes: str) -> str:
    """What the run said. Stops the trial where it failed."""
    process = start(recipe, run_dir, *changes)
    said = process.communicate()[1]
    if process.returncode:
        sys.exit(f"{changes}: code {process.returncode}: {said}")
    return said


def files_of(run_dir: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in STAGES
        for path in sorted((run_dir / stage).rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", ".spending.jsonl")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=len(CHANGES))
    options = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        make_corpus(folder / "text")
        recipe = folder / "changed.toml"
        recipe.write_text(
            'name = "changed"\n[corpus]\nfilters = { families = [] }\n'
            f'sources = [{{ kind = "files", path = "{folder}/text", license = "CC0-1.0" }}]\n'
            "[tokenizer]\nvocab_size = 700\n[pack]\n"
        )
        began = time.monotonic()
        finish(recipe, folder / "base")
        took = time.monotonic() - began
        base = files_of(folder / "base")
        equal = different = skipped = 0
        for change, stage in CHANGES[: options.trials]:
            changed, fresh = folder / "changed", folder / "fresh"
            shutil.rmtree(changed, ignore_errors=True)
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(folder / "base", changed, symlinks=True)
            process = start(recipe, changed, change)  # the whole old run is there, then a kill ...
            time.sleep(rng.uniform(0.3, 1.0) * took)
            process.kill()
            process.communicate()
            said = finish(recipe, changed, change)  # ... and the same command again
            finish(recipe, fresh, change)
            found = files_of(changed)
            same = found == files_of(fresh)
            equal += same
            different += found != base
            before = ORDER[: ORDER.index(stage)]
            skipped += all(f"{earlier}: unchanged, skipped" in said for earlier in before)
            print(f"{change}: {'equal' if same else 'DIFFERENT'}", file=sys.stderr, flush=True)
    trials = min(options.trials, len(CHANGES))
    for figure, value in (
        ("F13 changed setting: equal to a fresh run", equal),
        ("F13 changed setting: other files than before", different),
        ("F13 changed setting: stages before it skipped", skipped),
    ):
        row = {"figure": figure, "value": value, "spread": 0, "unit": f"of {trials} trials"}
        row |= {"peer": "datatrove: same config needed", "goal": trials, "holds": value == trials}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
