"""Any script: `ttl new`, the corpus stage and its checks on made-up text in ten languages.

    python bench/scripts.py [LANGUAGE ...] [--kilobytes 200] [--chat [--steps 300] [--texts FOLDER]]

The text is names of CLDR (`tests/support/script_texts.py`): no file is needed, and nobody has seen
it before. Per language, by the commands that a user types: the share of clean documents kept by the
recipe that `ttl new` learned; the share of another language's documents dropped, where py3langid
knows the language; recall and precision on near copies with 1 to 5 % of their characters changed
(scripts without spaces); the share of test questions, planted word for word, that were found by the
corpus stage, and by the check of the stage `evaluate`.

With `--chat` instead: `ttl new` with so much text, `ttl run`, and a question to `ttl chat`: does it
answer? `--texts` takes real text in place of names: FOLDER/<language>/ (what `--text` takes) and
FOLDER/<language>.txt (the clean sample). `--steps` shortens the training; 0 trains as planned.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import zstandard

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import script_texts

from teenytinyllama.stages.evaluate.contamination import ContaminationCheck

LANGUAGES = ("th", "km", "zh", "ja", "ar", "he", "hi", "yo", "vi", "am")
OTHER_LANGUAGE = {"ar": "he", "th": "km"}
NUM_QUESTIONS = 40


def ttl(folder: Path, *words: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "teenytinyllama.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        input=lines,
    )
    if done.returncode:
        sys.exit(f"ttl {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return done


def write(path: Path, texts: list[str]) -> None:
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8"
    )


def corpus(folder: Path, recipe: str, file: str, *more: str) -> tuple[dict[str, Any], set[str]]:
    """Counts of a corpus of one file, and the texts that stay."""
    run = folder / f"run-{file}"
    source = f'corpus.sources=[{{kind="files",path="{file}",license="CC0-1.0"}}]'
    words = [word for setting in (source, *more) for word in ("--set", setting)]
    ttl(folder, "corpus", recipe, "--run-dir", str(run), *words)
    kept = set()
    for path in (run / "corpus").glob("*-*.jsonl.zst"):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            kept |= {json.loads(line)["text"] for line in lines}
    return json.loads((run / "corpus" / "manifest.json").read_bytes())["counts"], kept


def documents(language: str, rng: random.Random, num_bytes: int) -> list[str]:
    texts: list[str] = []
    size = 0
    while size < num_bytes:
        texts.append(script_texts.text_of(language, rng, rng.randint(300, 1500)))
        size += len(texts[-1].encode("utf-8"))
    return texts


def kept_and_dropped(folder: Path, language: str, num_bytes: int) -> dict[str, float | None]:
    rng = random.Random(language)
    clean = documents(language, rng, num_bytes)
    (folder / "clean.txt").write_text("\n\n".join(clean), "utf-8")
    said = ttl(
        folder, "new", "--language", language, "--clean-sample", "clean.txt", "--text-mb", "20",
        "--gpu", "cpu", "--hours", "0.5", "--name", "r",
    ).stderr  # fmt: skip
    fresh = documents(language, rng, num_bytes)
    write(folder / "fresh.jsonl", fresh)
    counts, _ = corpus(folder, "r.toml", "fresh.jsonl")
    found: dict[str, float | None] = {"kept": counts["documents_kept"] / len(fresh)}
    found["other_dropped"] = None
    if "py3langid" not in said:
        others = documents(OTHER_LANGUAGE.get(language, "ar"), rng, num_bytes)
        write(folder / "other.jsonl", fresh[:20] + others)
        _, kept = corpus(folder, "r.toml", "other.jsonl")
        found["other_dropped"] = 1 - len(kept.intersection(others)) / len(others)
    return found


def near_copies(folder: Path, language: str, num_bytes: int) -> dict[str, float]:
    rng = random.Random(f"copies {language}")
    first = documents(language, rng, num_bytes)
    shares = [rng.uniform(0.01, 0.05) for _ in first]
    copies = [script_texts.with_changes(t, s, rng) for t, s in zip(first, shares, strict=True)]
    strangers = documents(language, rng, num_bytes)
    write(folder / "copies.jsonl", first + copies + strangers)
    _, kept = corpus(folder, "r.toml", "copies.jsonl", "corpus.filters.families=[]")
    pairs = [({one, other} & kept) for one, other in zip(first, copies, strict=True)]
    right = sum(len(pair) == 1 for pair in pairs)
    wrong = sum(not pair for pair in pairs) + len(set(strangers) - kept)
    return {"recall": right / len(pairs), "precision": right / max(1, right + wrong)}


def planted(folder: Path, language: str, num_bytes: int) -> dict[str, float]:
    rng = random.Random(f"planted {language}")
    questions = [script_texts.text_of(language, rng, 180) for _ in range(NUM_QUESTIONS)]
    texts = documents(language, rng, num_bytes)
    chosen = rng.sample(range(len(texts)), min(NUM_QUESTIONS, len(texts) // 2))
    for place, question in zip(chosen, questions, strict=False):
        middle = len(texts[place]) // 2
        texts[place] = f"{texts[place][:middle]}\n{question} {texts[place][middle:]}"
    num_planted = len(chosen)
    write(folder / "planted.jsonl", texts)
    (folder / "test.jsonl").write_text(
        "".join(json.dumps({"question": q}, ensure_ascii=False) + "\n" for q in questions), "utf-8"
    )
    task = 'corpus.decontaminate=[{name="exam",path="test.jsonl"}]'
    drop = ('corpus.decontaminate_by="drop"', "corpus.filters.families=[]")
    _, kept = corpus(folder, "r.toml", "planted.jsonl", task, *drop)
    check = ContaminationCheck()
    for question in questions[:num_planted]:
        check.add_item("exam", [question])
    seen = check.read_training(texts)["tasks"]["exam"]["contaminated_items"]
    return {
        "planted_found": sum(texts[place] not in kept for place in chosen) / num_planted,
        "overlap_found": seen / num_planted,
    }


def to_chat(
    folder: Path, language: str, num_bytes: int, steps: int, texts: Path | None
) -> dict[str, Any]:
    """From text to an answer by `ttl new` and `ttl run`."""
    rng = random.Random(f"chat {language}")
    if texts is None:
        texts = folder
        (folder / language).mkdir()
        made = documents(language, rng, num_bytes)
        write(folder / language / "text.jsonl", made)
        (folder / f"{language}.txt").write_text("\n\n".join(made), "utf-8")
    chats = [
        [
            {"role": "user", "content": script_texts.sentence(language, rng)},
            {"role": "assistant", "content": script_texts.text_of(language, rng, 60)},
        ]
        for _ in range(200)
    ]
    (folder / "chats.jsonl").write_text(
        "".join(json.dumps({"messages": one}, ensure_ascii=False) + "\n" for one in chats), "utf-8"
    )
    ttl(
        folder, "new", "--language", language, "--clean-sample", str(texts / f"{language}.txt"),
        "--text", str(texts / language), "--chat", "chats.jsonl", "--gpu", "cpu", "--hours", "0.2",
        "--name", "r",
    )  # fmt: skip
    shorter = ["--set", f"pretrain.num_steps={steps}"] if steps else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    ttl(folder, "run", "r.toml", *shorter)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    answer = ttl(folder, "chat", "runs/r", lines=chats[0][0]["content"] + "\n").stdout.strip()
    run = folder / "runs" / "r"
    corpus_counts = json.loads((run / "corpus" / "manifest.json").read_bytes())["counts"]
    scores = json.loads((run / "evaluate" / "manifest.json").read_bytes())["metrics"]
    return {
        "answers": bool(answer),
        "kept": corpus_counts["documents_kept"] / corpus_counts["documents_read"],
        "bits_per_byte": round(scores["heldout_bits_per_byte"], 3),
        "run_cpu_s": round(seconds),
        "answer": answer[:60],
    }


def chat_in_every_language(options: argparse.Namespace) -> None:
    answering = 0
    for language in options.languages:
        with tempfile.TemporaryDirectory() as name:
            texts = options.texts and options.texts.resolve()
            row = to_chat(Path(name), language, options.kilobytes * 1000, options.steps, texts)
        answering += row["answers"]
        print(f"{language}: {json.dumps(row, ensure_ascii=False)}", flush=True)
    print(f"RESULT {answering} of {len(options.languages)} languages from text to chat")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("languages", nargs="*", default=LANGUAGES)
    parser.add_argument("--kilobytes", type=int, default=200)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--texts", type=Path)
    options = parser.parse_args()
    if options.chat:
        chat_in_every_language(options)
        return
    rows = {}
    for language in options.languages:
        with tempfile.TemporaryDirectory() as name:
            folder, num_bytes = Path(name), options.kilobytes * 1000
            row: dict[str, float | None] = dict(kept_and_dropped(folder, language, num_bytes))
            if language in script_texts.UNSPACED:
                row |= near_copies(folder, language, num_bytes)
            row |= planted(folder, language, num_bytes)
        rows[language] = row
        shown = (f"{key} {'-' if x is None else f'{x:.1%}'}" for key, x in row.items())
        print(f"{language}: {', '.join(shown)}", flush=True)
    values = [row for row in rows.values()]
    kept = sum(row["kept"] >= 0.9 for row in values)
    found = min(min(row["planted_found"], row["overlap_found"]) for row in values)
    pairs = [min(row["recall"], row["precision"]) for row in values if "recall" in row]
    print(
        f"RESULT languages {len(values)}, clean text kept in {kept}, planted questions found "
        f"{found:.1%} at least, recall and precision of near copies {min(pairs, default=1):.1%} "
        "at least"
    )


if __name__ == "__main__":
    main()
