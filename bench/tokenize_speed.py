"""Tokenizer and packing against SentencePiece and Hugging Face tokenizers, on the same text.

    python bench/tokenize_speed.py [--data DIR] [--part train] [--part encode] [--part pack]
                                   [--part equal] [--measure PATH ...]

- `train`: a BPE of 32,000 tokens on 100 MB, ours and SentencePiece's own trainer in turn, each in
  its own process (CPU seconds, peak memory); then Table 1 with both, trained on all of the text.
- `alternatives`: Table 1 for byte-level BPE (the `tokenizers` library).
- `encode`: one core, several rounds, each over other documents; UTF-8 bytes per CPU second.
- `pack`: the pack stage on the whole text with two cores (wall clock and memory).
- `equal`: our ids against SentencePiece's on every document, and `tokenizer.json`'s against
  SentencePiece's on `--lines` lines.

`--measure` adds tokenizers to Table 1: a folder with `tokenizer.json`, or a `.model` file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.settings.data_preparation import PackSettings, TokenizerSettings
from teenytinyllama.stages.pack import stage as pack
from teenytinyllama.stages.tokenizer import sentencepiece_training as training
from teenytinyllama.stages.tokenizer.hf_export import fast_tokenizer, write_tokenizer_files

ROUNDS = 5
WORDS_IN_TABLE_1 = 7_400
VOCAB_SIZE = 32_000
PARTS = ("train", "alternatives", "encode", "pack", "equal")
# Options that a user would give SentencePiece directly.
SENTENCEPIECE_OPTIONS = {
    "model_type": "bpe",
    "vocab_size": VOCAB_SIZE,
    "character_coverage": 0.9999,
    "byte_fallback": True,
    "split_digits": True,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
    "allow_whitespace_only_pieces": True,
    "max_sentence_length": 16_384,
    "num_threads": 1,
    "minloglevel": 2,
}


def read(data: Path) -> list[tuple[str, str]]:
    """Source and text of every document, with the sources mixed."""
    found = []
    for path in sorted((data / "corpus").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found += [(path.name.split(".")[0], json.loads(line)["text"]) for line in file]
    random.Random(0).shuffle(found)
    return found


def size(texts: list[str]) -> int:
    return sum(len(text.encode("utf-8")) for text in texts)


def say(figure: str, value: float, unit: str, **rest: object) -> None:
    row = {"figure": figure, "value": round(value, 4), "spread": None, "unit": unit, "peer": None}
    print(json.dumps({**row, "goal": None, "holds": None, **rest}), flush=True)


def train_one(kind: str, text_path: Path, model_path: Path) -> None:
    """Train in this process; print CPU seconds and peak memory."""
    if kind == "ours":
        texts = text_path.read_bytes().decode("utf-8").split("\0")
        held = memory_mb(os.getpid(), "VmHWM")
        started = time.process_time()
        counts = training.count_words(texts)
        common = training.without_rare_words(counts, VOCAB_SIZE)
        model = training.train_model(common, TokenizerSettings(vocab_size=VOCAB_SIZE))
        model_path.write_bytes(model)
    else:
        held = memory_mb(os.getpid(), "VmHWM")
        started = time.process_time()
        sentencepiece.SentencePieceTrainer.train(
            input=str(text_path),
            model_prefix=str(model_path.with_suffix("")),
            **SENTENCEPIECE_OPTIONS,
        )
    seconds = time.process_time() - started
    peak = memory_mb(os.getpid(), "VmHWM")
    print(json.dumps({"seconds": seconds, "mb": peak - held}))


def train(kind: str, texts: list[str], folder: Path, name: str) -> tuple[dict[str, float], Path]:
    text_path, model_path = folder / f"{name}.{kind}.txt", folder / f"{name}-{kind}.model"
    joined = ("\0" if kind == "ours" else "\n").join(text.replace("\0", " ") for text in texts)
    text_path.write_bytes(joined.encode("utf-8"))
    command = [sys.executable, __file__, "--one", kind, str(text_path), str(model_path)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    text_path.unlink()
    return json.loads(answer.splitlines()[-1]), model_path


def part_train(texts: list[str], data: Path, folder: Path, measured: list[str]) -> None:
    few: list[str] = []
    total = 0
    for text in texts:
        if total > 100e6:
            break
        few.append(text)
        total += len(text.encode("utf-8"))
    ratios, ours, theirs = [], [], []
    for _ in range(3):
        ours.append(train("ours", few, folder, "few")[0])
        theirs.append(train("sentencepiece", few, folder, "few")[0])
        ratios.append(ours[-1]["seconds"] / theirs[-1]["seconds"])
    say(
        "tokenizer training, 32K tokens, 100 MB, CPU time against SentencePiece's",
        statistics.median(ratios),
        "ratio",
        spread=round(max(ratios) - min(ratios), 4),
        peer=f"SentencePiece {statistics.median(x['seconds'] for x in theirs):.1f} s, "
        f"{statistics.median(x['mb'] for x in theirs):.0f} MB without the text; ours "
        f"{statistics.median(x['seconds'] for x in ours):.1f} s, "
        f"{statistics.median(x['mb'] for x in ours):.0f} MB",
        goal=1.1,
        holds=statistics.median(ratios) <= 1.1,
    )
    text = (data / "tokenizer" / "porttinari_7400w.txt").read_text(encoding="utf-8")
    assert len(text.split()) == WORDS_IN_TABLE_1
    _, mine = train("ours", texts, folder, "all")
    _, plain = train("sentencepiece", texts, folder, "all")
    encoder = TextEncoder(mine.read_bytes())
    reference = sentencepiece.SentencePieceProcessor(model_file=str(plain))
    peers = {"SentencePiece BPE": reference.encode}
    for path in measured:
        peers[path] = encoder_of(Path(path))
    words = len(text.split())
    for how, parts in (("whole text", [text]), ("line by line", text.splitlines())):
        tokens = sum(len(encoder.encode(part)) for part in parts)
        lossless = all(encoder.decode(encoder.encode(part)) == part for part in parts)
        others = {n: sum(len(e(p)) for p in parts) / words for n, e in peers.items()}
        say(
            f"Table 1, tokens per word, {how}",
            tokens / words,
            "tokens/word",
            peer=", ".join(f"{name} {value:.3f}" for name, value in others.items()),
            goal=1.48,
            holds=tokens / words <= 1.48 and lossless,
            tokens=tokens,
        )


def part_alternatives(texts: list[str], data: Path) -> None:
    text = (data / "tokenizer" / "porttinari_7400w.txt").read_text(encoding="utf-8")
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    started = time.process_time()
    fast.train_from_iterator(texts, trainer)
    num_tokens = len(fast.encode(text).ids)
    say(
        "Table 1, tokens per word, whole text, byte-level BPE with digits apart",
        num_tokens / WORDS_IN_TABLE_1,
        "tokens/word",
        tokens=num_tokens,
        training_cpu_s=round(time.process_time() - started, 1),
    )


def encoder_of(path: Path):
    if path.suffix == ".model":
        return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode
    fast = Tokenizer.from_file(str(path if path.is_file() else path / "tokenizer.json"))
    return lambda text: fast.encode(text, add_special_tokens=False).ids


def part_encode(texts: list[str], model: bytes) -> None:
    encoder = TextEncoder(model)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    fast = fast_tokenizer(model)
    fast.encode_special_tokens = True
    # Our encoder caches words: the first tenth of the text fills the cache.
    tenth = len(texts) // 10
    cold = speed(encoder.encode_bytes, texts[:tenth])
    num_few = max(len(texts) // 400, 1)
    rows = []
    for number in range(ROUNDS):
        start = tenth * (number + 1)
        mine = texts[start : start + tenth]
        few = mine[:num_few]
        rows.append(
            (
                speed(encoder.encode_bytes, mine),
                speed(reference.encode, few),
                speed(lambda text: fast.encode(text, add_special_tokens=False).ids, few),
            )
        )
    ours, theirs, hugging = ([row[i] for row in rows] for i in range(3))
    say(
        "encode, one core, same ids as SentencePiece",
        statistics.median(ours),
        "MB/s",
        spread=round(max(ours) - min(ours), 2),
        peer=f"SentencePiece {statistics.median(theirs):.2f}, tokenizers "
        f"{statistics.median(hugging):.2f} MB/s; ours with an empty cache {cold:.2f}",
        goal=6.0,
        holds=statistics.median(ours) >= 6.0,
    )
    ratios = [row[0] / row[1] for row in rows]
    say(
        "encode against SentencePiece",
        statistics.median(ratios),
        "ratio",
        spread=round(max(ratios) - min(ratios), 2),
    )


def speed(encode, texts: list[str]) -> float:
    started = time.process_time()
    for text in texts:
        encode(text)
    return size(texts) / 1e6 / (time.process_time() - started)


def part_pack(documents: list[tuple[str, str]], model: bytes, folder: Path) -> None:
    corpus_dir, tokenizer_dir, out_dir = (folder / n for n in ("corpus", "tokenizer", "pack"))
    seen: set[str] = set()
    with DocumentWriter(corpus_dir, "train") as train_, DocumentWriter(corpus_dir, "heldout") as h:
        for index, (source, text) in enumerate(documents):
            words = " ".join(text.split())
            if words not in seen:
                writer = h if index % 50 == 0 else train_
                writer.write(Document(str(index), text, source, "see README"))
            seen.add(words)
    del seen
    for path in (tokenizer_dir, out_dir):
        path.mkdir()
    write_tokenizer_files(model, tokenizer_dir)
    started, cpu = time.perf_counter(), cpu_seconds()
    with PeakMemory() as memory:
        result = pack.run(
            settings=PackSettings(),
            context=None,
            out_dir=out_dir,
            corpus_dir=corpus_dir,
            tokenizer_dir=tokenizer_dir,
        )
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    megabytes = (result.counts["bytes_train"] + result.counts["bytes_heldout"]) / 1e6
    cores = len(os.sched_getaffinity(0))
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    say(
        f"tokenise + pack, the whole stage on {cores} cores, wall clock",
        megabytes / seconds,
        "MB/s",
        peer=load,
        goal=11.0,
        holds=megabytes / seconds >= 11.0,
    )
    say(
        "tokenise + pack, per CPU second of all processes",
        megabytes / cpu,
        "MB/s",
        goal=6.0,
        holds=megabytes / cpu >= 6.0,
    )
    say(
        "tokenise + pack, memory of all processes together",
        memory.peak_mb,
        "MB",
        goal=1000,
        holds=memory.peak_mb <= 1000,
    )


class PeakMemory:
    """Peak memory of this process's children plus its own growth, sampled five times a second."""

    def __enter__(self):
        self.peak_mb, self._held, self._stop = 0.0, memory_mb(os.getpid()), threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        me = os.getpid()
        children = Path(f"/proc/{me}/task/{me}/children")
        while not self._stop.wait(0.2):
            others = sum(memory_mb(int(child)) for child in children.read_text().split())
            self.peak_mb = max(self.peak_mb, others + memory_mb(me) - self._held)

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def memory_mb(process: int, field: str = "VmRSS") -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(x.split()[1]) / 1024 for x in lines if x.startswith(field))
    except (OSError, StopIteration):
        return 0.0


def cpu_seconds() -> float:
    uses = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, uses))


def part_equal(texts: list[str], model: bytes, num_lines: int) -> None:
    encoder = TextEncoder(model)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    unequal = sum(encoder.encode(text) != reference.encode(text) for text in texts)
    lost = sum(encoder.decode(encoder.encode(text)) != text for text in texts)
    say(
        "documents whose ids are not SentencePiece's",
        unequal,
        f"of {len(texts):,}",
        peer=f"{lost} decode to another text",
        goal=0,
        holds=unequal == lost == 0,
    )
    fast = fast_tokenizer(model)
    fast.encode_special_tokens = True
    lines = [line for text in texts for line in text.split("\n") if line][:num_lines]
    unequal = 0
    for start in range(0, len(lines), 10_000):
        few = lines[start : start + 10_000]
        theirs = fast.encode_batch(few, add_special_tokens=False)
        unequal += sum(a.ids != encoder.encode(b) for a, b in zip(theirs, few, strict=True))
    say(
        "lines whose ids in tokenizer.json are not SentencePiece's",
        unequal,
        f"of {len(lines):,}",
        goal=0,
        holds=unequal == 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--part", action="append", choices=PARTS, default=[])
    parser.add_argument("--measure", action="append", default=[], metavar="PATH")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--model", type=Path, help="a tokenizer.model, instead of training one")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        train_one(options.one[0], Path(options.one[1]), Path(options.one[2]))
        return
    documents = read(options.data)
    texts = [text for _, text in documents]
    parts = options.part or PARTS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "train" in parts:
            part_train(texts, options.data, folder, options.measure)
        if "alternatives" in parts:
            part_alternatives(texts, options.data)
        if set(parts) <= {"train", "alternatives"}:
            return
        path = options.model or train("ours", texts, folder, "all")[1]
        model = path.read_bytes()
        if "encode" in parts:
            part_encode(texts, model)
        if "pack" in parts:
            part_pack(documents, model, folder)
        if "equal" in parts:
            part_equal(texts, model, options.lines)


if __name__ == "__main__":
    main()
