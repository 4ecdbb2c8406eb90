"""Precision and recall of personal data, by kind.

E-mail and IP addresses: a labelled sample of a folder of texts (`personal_data_labels.json`: file,
document, place and whether it is one; the texts themselves are not here). Every `@` and every
thing like an IP address in the sample was read and labelled by hand, `A::B` and section numbers
too. Planted are IP addresses and the kinds that are rarer than 100 there: numbers made from public
formats, right ones and ones that only look so (law numbers, lawsuits, ranges of years), in
sentences.

    python bench/personal_data.py [--texts FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import ipaddress
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from teenytinyllama.languages.personal_data import PersonalData

LABELS = Path(__file__).with_name("personal_data_labels.json")
GOAL, NUM_PLANTED, AROUND = 0.98, 500, 80
SENTENCES = (
    "Ligue ou escreva hoje: {}.",
    "O cadastro traz {} e mais nada.",
    "- {}\n",
    "dados: {}; depois se vê",
    "({})",
)


def luhn(digits: str) -> str:
    """The digits with Luhn's check digit."""
    total = sum(int(c) for c in digits[-2::-2])
    total += sum(2 * int(c) - 9 * (int(c) > 4) for c in digits[::-2])
    return digits + str(-total % 10)


def weighted(digits: str, weights: Callable[[int], list[int]], times: int) -> str:
    """The digits with `times` check digits modulo 11."""
    for _ in range(times):
        rest = sum(int(d) * w for d, w in zip(digits, weights(len(digits)), strict=True)) % 11
        digits += str(0 if rest < 2 else 11 - rest)
    return digits


def cpf(rng: random.Random) -> str:
    base = "".join(rng.choices("0123456789", k=9))
    d = weighted(base, lambda size: list(range(size + 1, 1, -1)), 2)
    return rng.choice([d, f"{d[:3]}.{d[3:6]}.{d[6:9]}-{d[9:]}", f"{d[:9]}-{d[9:]}"])


def cnpj(rng: random.Random) -> str:
    base = "".join(rng.choices("0123456789", k=8)) + "0001"
    d = weighted(base, lambda size: [(size - 1 - k) % 8 + 2 for k in range(size)], 2)
    return rng.choice([d, f"{d[:2]}.{d[2:5]}.{d[5:8]}/{d[8:12]}-{d[12:]}"])


def card(rng: random.Random) -> str:
    start, size = rng.choice([("4", 16), ("51", 16), ("5067", 16), ("37", 15), ("6011", 16)])
    d = luhn(start + "".join(rng.choices("0123456789", k=size - 1 - len(start))))
    cuts = (4, 10) if size == 15 else (4, 8, 12)
    parts = [d[a:b] for a, b in zip((0, *cuts), (*cuts, size), strict=True)]
    return rng.choice(["", " ", "-"]).join(parts)


def phone(rng: random.Random) -> str:
    area = rng.choice(["11", "21", "31", "48", "61", "71", "85", "92", "51", "41"])
    a, b = rng.choice("2345") + "".join(rng.choices("0123456789", k=3)), rng.randrange(10**4)
    mobile = f"9{rng.randrange(5000, 10000)}"
    return rng.choice(
        [
            f"({area}) {mobile}-{b:04d}",
            f"({area}) {a}-{b:04d}",
            f"({area}) {a}.{b:04d}",
            f"({area}){mobile}-{b:04d}",
            f"(0{area}) {a}-{b:04d}",
            f"+55 {area} {mobile}-{b:04d}",
            f"+55 ({area}) {a}-{b:04d}",
            f"+55{area}{mobile}{b:04d}",
            f"{area} {mobile}-{b:04d}",
            f"{mobile}-{b:04d}",
        ]
    )


def cep(rng: random.Random) -> str:
    d = f"{rng.randrange(1000, 99999):05d}"
    e = f"{rng.randrange(1000):03d}"
    return rng.choice([f"{d}-{e}", f"{d[:2]}.{d[2:]}-{e}"])


def ip(rng: random.Random) -> str:
    version = rng.choice([4, 4, 6])
    while True:
        if version == 4:
            address: ipaddress.IPv4Address | ipaddress.IPv6Address
            address = ipaddress.IPv4Address(rng.getrandbits(32))
        else:  # of a provider's range, with the short form of zeros
            high = rng.choice([0x2804, 0x2001, 0x2600, 0x2A02]) << 112
            low = rng.choice([rng.getrandbits(64), rng.getrandbits(16)])
            address = ipaddress.IPv6Address(high | rng.getrandbits(16) << 96 | low)
        if address.is_global and not address.is_multicast:
            return str(address)


def similar(rng: random.Random) -> str:
    """Numbers that are none of these."""
    n = rng.randrange
    return rng.choice(
        [
            f"Lei nº {n(1, 14)}.{n(100, 999)}, de {n(1, 28)} de maio de {n(1980, 2024)}",
            f"processo {n(10**6):07d}-{n(100):02d}.{n(1990, 2024)}.8.26.{n(10**4):04d}",
            f"de {n(1900, 1960)}-{n(1961, 2024)}",
            f"ISBN 978-85-{n(100, 999)}-{n(1000, 9999)}-{n(10)}",
            f"R$ {n(1, 99)}.{n(100, 999)}.{n(100, 999)},00",
            f"p. {n(100, 400)}-{n(401, 999)}",
            f"o item {n(1, 30)}.{n(1, 9)}.{n(1, 9)}.{n(1, 9)} do edital",
            f"versão {n(1, 30)}.{n(9)}.{n(100, 9999)}.{n(99)}",
            f"em {n(1, 28):02d}/{n(1, 12):02d}/{n(1990, 2024)} às {n(24):02d}:{n(60):02d}",
            f"{n(1, 9)},{n(10**14, 10**15)}",
            f"std::vector<int> v{n(9)}; A{n(9)}::B",
        ]
    )


def kinds_in(text: str, finder: PersonalData) -> dict[str, int]:
    counts: Counter[str] = Counter()
    finder.replace(text, counts)
    return dict(counts)


def planted(finder: PersonalData) -> Iterator[tuple[str, int, int, int]]:
    """Kind, right hits, wrong hits, misses."""
    rng = random.Random(0)
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    kinds = {"cpf": cpf, "cnpj": cnpj, "card": card, "phone": phone, "cep": cep, "ip": ip}
    for kind, make in kinds.items():
        for _ in range(NUM_PLANTED):
            number = make(rng)
            found = kinds_in(rng.choice(SENTENCES).format(number), finder)
            right[kind] += bool(found.pop(kind, 0))
            missed[kind] = NUM_PLANTED - right[kind]
            wrong.update(found)
            if found:
                print(f"{number} is a {kind}, found as {found}")
    for _ in range(NUM_PLANTED):
        text = rng.choice(SENTENCES).format(similar(rng))
        found = kinds_in(text, finder)
        wrong.update(found)
        if found:
            print(f"{text!r} is nothing, found as {found}")
    for kind in kinds:
        yield kind, right[kind], wrong[kind], missed[kind]


def labelled(finder: PersonalData, folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """Kind, right hits, wrong hits, misses over the labelled places."""
    wanted: dict[str, dict[str, list[tuple[str, int, int, int]]]] = {}
    for kind, name, document, start, end, is_one in json.loads(LABELS.read_text())["places"]:
        documents = wanted.setdefault(name, defaultdict(list))
        documents[document].append((kind, start, end, is_one))
    outcomes: Counter[tuple[str, bool, bool]] = Counter()
    for name, documents in wanted.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                for kind, start, end, is_one in documents.get(row["id"], ()):
                    text = row["text"]
                    # Found, if the text around is marked less often without what stands there.
                    before, after = text[max(start - AROUND, 0) : start], text[end : end + AROUND]
                    whole = kinds_in(before + text[start:end] + after, finder).get(kind, 0)
                    rest = kinds_in(before + " \x00 " + after, finder).get(kind, 0)
                    outcomes[kind, bool(is_one), whole > rest] += 1
                    if bool(is_one) != (whole > rest):
                        print(f"{kind} {name} {row['id']} {start}: {text[start:end]!r} is {is_one}")
    for kind in ("email", "ip"):
        yield (
            kind,
            outcomes[kind, True, True],
            outcomes[kind, False, True],
            outcomes[kind, True, False],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path("../shared/data/corpus"))
    options = parser.parse_args()
    finder = PersonalData("pt")
    rows = list(planted(finder))
    if options.texts.is_dir():
        rows += labelled(finder, options.texts)
    else:
        print(f"labelled sample: no texts in {options.texts}")
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, right, wrong, missed in rows:
        totals[kind].update(right=right, wrong=wrong, missed=missed)
    all_hold = True
    for kind, total in totals.items():
        right, wrong, missed = total["right"], total["wrong"], total["missed"]
        for name, value in (
            ("precision", right / (right + wrong)),
            ("recall", right / (right + missed)),
        ):
            line = {"figure": f"personal data, {kind}, {name}", "value": round(value, 4)}
            unit = f"{right} right, {wrong} wrong, {missed} missed"
            holds = value >= GOAL
            line |= {"spread": 0, "unit": unit, "peer": None, "goal": f">= {GOAL}", "holds": holds}
            print(json.dumps(line), flush=True)
            all_hold &= holds
    return not all_hold


if __name__ == "__main__":
    sys.exit(main())
