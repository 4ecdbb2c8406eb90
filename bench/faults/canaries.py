"""F18: secrets everywhere a secret may be; none may leak, and every form must be found.

1. Canaries of eight kinds in environment, recipe, paths and documents; then logs, tracebacks,
   manifests, report, cards, tables, plots and the published folder are searched. The trials are
   those of the fast test (tests/support/canaries.py).
2. Forms drawn from two lists that the detector does not read (_secret_lists.py).
3. False hits in a folder of ordinary texts, JSON lines compressed with gzip.

    python bench/faults/canaries.py [--texts FOLDER] [--seed 0]
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from _secret_lists import INSTALL, forms, gitleaks_rules, secretlint_rules
from support.canaries import SECRETS, run_trials

from teenytinyllama.redaction import find_secrets

GOAL_FOUND, GOAL_FALSE = 0.95, 1.0
EACH = 3
# Secrets by their form that manuals print as examples (private keys, parts of one, tokens, a
# password), read by hand: right hits. Fingerprints of `find_secrets`.
EXAMPLES = frozenset(
    (
        "4a49538cc7fc",
        "0f341cb90c95",
        "a08f95efff07",
        "a825ef5abe46",
        "4f950bced135",
        "57e62b9f323b",
        "8cc3eba82275",
        "3140d8b37fa7",
        "15fab2ff5007",
        "aac58af97831",
        "d200e63a29f8",
        "9bee528d08b8",
        "0518071a1f51",
        "83a203cd6cc6",
        "4b2ad38954ed",
        "205a5cb74dd9",
        "71648cf7e651",
    )
)


def figure(name: str, value: float, unit: str, goal: str, holds: bool) -> None:
    line = {"figure": name, "value": value, "spread": 0, "unit": unit, "peer": None}
    print(json.dumps(line | {"goal": goal, "holds": holds}), flush=True)


def secret_forms(seed: int) -> bool:
    """The fraction of forms in which something of the secret is found."""
    lists = {"gitleaks": len(gitleaks_rules()), "secretlint": len(secretlint_rules())}
    if not all(lists.values()):
        missing = ", ".join(name for name, number in lists.items() if not number)
        print(f"secret forms: no list of {missing} ({INSTALL})")
    made = list(forms(random.Random(seed), EACH))
    if not made:
        return True
    missed = []
    for form in made:
        spans = [
            (one.start - 11, one.end - 11) for one in find_secrets(f"Veja isto: {form.text} \n")
        ]
        if not any(start < form.end and end > form.start for start, end in spans):
            missed.append(form)
    for rule in sorted({form.rule for form in missed}):
        print(f"missed: {sum(form.rule == rule for form in missed)} of {rule}")
    found = 1 - len(missed) / len(made)
    rules = len({form.rule for form in made})
    unit = f"of {len(made)} forms of {rules} rules"
    figure("canary_secret_forms_found", round(found, 4), unit, ">= 0.95", found >= GOAL_FOUND)
    return found >= GOAL_FOUND


def false_hits(texts: Path) -> bool:
    """Hits in ordinary texts that are none, per 10 MB."""
    hits = size = examples = 0
    for path in sorted(texts.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                size += len(text.encode())
                for one in find_secrets(text):
                    examples += one.fingerprint in EXAMPLES
                    if one.fingerprint in EXAMPLES:
                        continue
                    hits += 1
                    print(f"hit: {path.name}: {one.kind}: {text[one.start : one.end][:60]!r}")
    if not size:
        print(f"false hits: no *.jsonl.gz in {texts}")
        return True
    rate = hits / (size / 1e7)
    unit = f"in 10 MB, {hits} in {size / 1e6:.0f} MB beside {examples} examples of manuals"
    figure("canary_secrets_false_hits", round(rate, 2), unit, "<= 1", rate <= GOAL_FALSE)
    return rate <= GOAL_FALSE


def canaries() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        found, codes = run_trials(Path(folder))
    for leak in found:
        print(f"LEAK: {leak}")
    print(json.dumps(codes))
    holds = not found and codes["run"] == 0
    unit = f"places, {len(SECRETS)} kinds, {len(codes)} commands"
    figure("canary_secrets_leaked", len(found), unit, "0", holds)
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path("../shared/data/corpus"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return not all((canaries(), secret_forms(options.seed), false_hits(options.texts)))


if __name__ == "__main__":
    sys.exit(main())
