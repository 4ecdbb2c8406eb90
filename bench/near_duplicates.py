"""Near duplicates: speed per core beside datatrove and rensa, recall and precision, memory.

    python bench/near_duplicates.py CORPUS.jsonl.gz ... [--pairs 2000]

Speed: UTF-8 bytes of text per CPU second of one process, texts in memory, from texts to the list
of copies. datatrove is its first stage alone (signatures) with words split by a regular
expression, its fastest; rensa has shingles made in Python, as its own examples do.
Recall and precision: pairs of real texts of which some words were changed, labelled by the
Jaccard index of their word 5-grams, counted in Python sets.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import resource
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from teenytinyllama.settings.data_preparation import NearDuplicateSettings
from teenytinyllama.stages.corpus.dedup.minhash import (
    ShingleStore,
    candidate_groups,
    find_copies,
)
from teenytinyllama.stages.corpus.dedup.shingling import MinHasher, Shingler

SETTINGS = NearDuplicateSettings()


def ours(texts: list[str]) -> int:
    """Number of copies found, from texts in memory, all stages."""
    hasher = MinHasher(SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        batches_of_keys = [
            hasher.band_keys(texts[start : start + 500]) for start in range(0, len(texts), 500)
        ]
        documents, groups = candidate_groups(np.concatenate(batches_of_keys))
        wanted = np.unique(documents).tolist()
        store = ShingleStore(Path(folder) / "shingles")
        batches = (
            (wanted[k : k + 500], [texts[n] for n in wanted[k : k + 500]])
            for k in range(0, len(wanted), 500)
        )
        store.fill(batches, Shingler(SETTINGS.ngram_words))
        sizes = array("q", map(len, texts))
        copies, _ = find_copies(documents, groups, sizes, store, SETTINGS)
    return len(copies)


def rensa_peer(texts: list[str]) -> int:
    """rensa 0.5: RMinHash and its LSH, 14 bands of 8."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=0.8, num_perm=112, num_bands=14)
    copies = 0
    for number, text in enumerate(texts):
        words = text.lower().split()
        sketch = RMinHash(num_perm=112, seed=1)
        sketch.update([" ".join(words[k : k + 5]) for k in range(max(len(words) - 4, 1))])
        copies += bool(index.query(sketch))
        index.insert(number, sketch)
    return copies


def datatrove_peer(texts: list[str]) -> int:
    """datatrove 0.10.1: signatures alone, 14 bands of 8, words by a regular expression."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Words(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return re.findall(r"\w+|[^\w\s]+", text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    with tempfile.TemporaryDirectory() as folder:
        # sha1: its xxhash calls fail under xxhash 4 ("Strings must be encoded before hashing").
        hashes = HashConfig(precision=64, hash_fc="sha1")
        config = MinhashConfig(num_buckets=14, hashes_per_bucket=8, hash_config=hashes)
        block = MinhashDedupSignature(folder, config)
        block.word_tokenizer = Words()
        documents = (Document(text=text, id=str(n)) for n, text in enumerate(texts))
        block.run(documents, rank=0, world_size=1)
    return -1


def megabytes_per_cpu_second(run: Callable[[list[str]], int], texts: list[str]) -> float:
    size = sum(len(text.encode()) for text in texts) / 1e6
    began = time.process_time()
    run(texts)
    return size / (time.process_time() - began)


def grams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[k : k + 5]) for k in range(len(words) - 4)}


def labelled(texts: list[str], num_pairs: int) -> tuple[float, float, int]:
    """(recall, precision, true pairs) on pairs whose true index is on both sides of 0.8."""
    rng = random.Random(0)
    sources = [t for t in texts if 100 <= len(re.findall(r"[^\W_]+", t)) <= 2000]
    rng.shuffle(sources)
    pairs, truth = [], []
    for text in sources[:num_pairs]:
        # Words as our rule sees them, so that the labels say what the rule should find.
        words = re.findall(r"[^\W_]+", text.lower())
        other = list(words)
        for place in rng.sample(range(len(words)), max(1, int(len(words) * rng.uniform(0, 0.05)))):
            other[place] = f"trocada{rng.randrange(10**9)}"
        a, b = grams(words), grams(other)
        pairs.append((" ".join(words), " ".join(other)))
        truth.append(len(a & b) / len(a | b) >= SETTINGS.threshold)
    found = []
    for one, other in pairs:
        found.append(ours([one, other]) == 1)
    true = sum(truth)
    right = sum(f and t for f, t in zip(found, truth, strict=True))
    return right / max(true, 1), right / max(sum(found), 1), true


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-megabytes", type=float, default=10)
    options = parser.parse_args()
    texts: list[str] = []
    for path in options.corpus:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in file]
    random.Random(0).shuffle(texts)
    size, some = 0, []
    for text in texts:
        if size < options.peer_megabytes * 1e6:
            some.append(text)
            size += len(text.encode())
    peers = {"rensa": rensa_peer, "datatrove, signatures alone": datatrove_peer}
    for name, peer in peers.items():
        try:
            rows = [
                (megabytes_per_cpu_second(ours, texts), megabytes_per_cpu_second(peer, some))
                for _ in range(options.rounds)
            ]
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        mine = statistics.median(a for a, _ in rows)
        ratios = sorted(a / b for a, b in rows)
        figure = {"figure": "near duplicates, MB per CPU second", "value": round(mine, 1)}
        figure |= {"spread": round(max(a for a, _ in rows) - min(a for a, _ in rows), 1)}
        figure |= {"unit": "MB/s", "peer": f"{name}: {statistics.median(b for _, b in rows):.1f}"}
        figure |= {"ratio": round(statistics.median(ratios), 1), "goal": 8, "holds": mine >= 8}
        print(json.dumps(figure))
    recall, precision, true = labelled(texts, options.pairs)
    for figure, value in (("recall", recall), ("precision", precision)):
        row = {"figure": f"near duplicates, {figure} at Jaccard 0.8", "value": round(value, 4)}
        row |= {"spread": 0, "unit": f"of {true} true pairs among {options.pairs}", "peer": None}
        print(json.dumps({**row, "goal": 0.98, "holds": value >= 0.98}))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB with all texts held", file=sys.stderr)


if __name__ == "__main__":
    main()
