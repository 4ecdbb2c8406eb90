"""Small tasks with a right answer: opposites, plurals, counting, sums, lists, short stories.

Documents and conversations use the same tasks, so that chat training has to teach only the form
of a conversation, not the tasks.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from teenytinyllama.synthetic.grammar import capitalize, lexicon, pick, plural
from teenytinyllama.synthetic.phrasing import state
from teenytinyllama.synthetic.word_forms import Slots, WordForms

_STARTS = (
    "Era uma vez {um_species} chamad{oa_p} {name}.",
    "{Time}, {o_species} {name} acordou {mood}.",
    "Esta é a história {de_species} {name}.",
)
_ENDS = (
    "{Time}, {name} foi passear {em_place}.",
    "Depois disso, {name} dormiu em paz.",
)


@dataclass(frozen=True)
class Instruction:
    """An instruction, a right answer, and words of which any right answer has at least one."""

    text: str
    answer: str
    expected: tuple[str, ...]


def opposite(rng: random.Random) -> Instruction:
    """Ask for the opposite of a word."""
    word, other = pick(rng, lexicon()["tasks"]["opposites"])
    if rng.random() < 0.5:
        word, other = other, word
    asked = pick(
        rng, ("Qual é o contrário de {}?", "Diga o contrário de {}.", "Qual é o oposto de {}?")
    )
    answer = pick(rng, (f"O contrário de {word} é {other}.", f"{capitalize(other)}."))
    return Instruction(asked.format(word), answer, (other,))


def plural_of(rng: random.Random) -> Instruction:
    """Ask for the plural of a noun."""
    words = lexicon()
    nouns = pick(
        rng, (words["scenery"]["found"], words["scenery"]["spot"], words["world"]["species"])
    )
    word = pick(rng, nouns).partition(":")[0]
    asked = pick(
        rng, ("Qual é o plural de {}?", "Diga o plural de {}.", "Passe para o plural: {}.")
    )
    answer = pick(rng, (f"O plural de {word} é {plural(word)}.", f"{capitalize(plural(word))}."))
    return Instruction(asked.format(word), answer, (plural(word),))


def count_to(rng: random.Random) -> Instruction:
    """Ask to count up to a small number."""
    numbers = lexicon()["tasks"]["numbers"]
    last = 3 + int(rng.random() * 8)
    asked = pick(rng, ("Conte até {}.", "Conte de um até {}.", "Você sabe contar até {}?"))
    counted = ", ".join(numbers[1 : last + 1])
    return Instruction(asked.format(numbers[last]), capitalize(counted) + ".", (counted,))


def add(rng: random.Random) -> Instruction:
    """Ask for the sum of two small numbers."""
    numbers = lexicon()["tasks"]["numbers"]
    first, second = 1 + int(rng.random() * 9), 1 + int(rng.random() * 9)
    verb = "são" if first > 1 else "é"
    asked = f"Quanto {verb} {numbers[first]} mais {numbers[second]}?"
    return Instruction(asked, capitalize(numbers[first + second]) + ".", (numbers[first + second],))


def list_three(rng: random.Random) -> Instruction:
    """Ask for three things of a kind."""
    kind, members = pick(rng, list(lexicon()["tasks"]["categories"].items()))
    three = rng.sample(members, 3)
    article = {"frutas": "Três frutas", "cores": "Três cores"}.get(kind, "Três " + kind)
    asked = pick(rng, (f"Diga três {kind}.", f"Cite três {kind}.", f"Liste três {kind}."))
    answer = f"{three[0]}, {three[1]} e {three[2]}."
    return Instruction(
        asked, pick(rng, (capitalize(answer), f"{article}: {answer}")), tuple(members)
    )


WORD_TASKS: tuple[Callable[[random.Random], Instruction], ...] = (
    opposite,
    plural_of,
    count_to,
    add,
    list_three,
)


def tell(rng: random.Random, forms: WordForms, name: str, attributes: list[str]) -> Instruction:
    """Ask for a short story about a character; the answer states these facts in the past."""
    patterns = lexicon()["tasks"]["story_requests"]
    slots = Slots(rng, forms.first_role[name, pick(rng, ("full", "bare")), "imperfect"])
    start = slots.fill(pick(rng, _STARTS))
    middle = state(rng, forms, name, attributes, is_past=True, is_known=True)
    end = slots.fill(pick(rng, _ENDS))
    return Instruction(slots.fill(pick(rng, patterns)), " ".join([start, *middle, end]), (name,))


def describe(rng: random.Random, forms: WordForms, name: str, attributes: list[str]) -> Instruction:
    """Ask who a character is; the answer states these facts."""
    patterns = lexicon()["tasks"]["describe_requests"]
    slots = Slots(rng, forms.first_role[name, pick(rng, ("full", "bare")), "present"])
    start = slots.fill("{name} é {um_species}.")
    rest = state(rng, forms, name, attributes, is_past=False, is_known=True)
    return Instruction(slots.fill(pick(rng, patterns)), " ".join([start, *rest]), (name,))
