"""Each text goes for the reason it was written for; the arrays agree with the plain rules."""

import pickle
import random

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters import Chain, heuristic_rules
from teenytinyllama.stages.corpus.filters.thresholds import load_language
from teenytinyllama.stages.corpus.filters.word_table import words_of

PROSE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova.\n"
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa.\n"
    "Ninguém sabia dizer quem tinha deixado aquele baú antigo na porta da escola.\n"
    "O professor abriu a tampa devagar: dentro havia cartas, fotografias e um relógio parado."
)


WORD_RULES = ("repetition", "fineweb", "quality")


def reason(text: str, **settings: object) -> str | None:
    chain = Chain(FilterSettings(**{"families": WORD_RULES, **settings}), "pt")
    (verdict,) = chain.judge([text])
    return verdict.reason


def numbered(pattern: str, count: int) -> str:
    """`count` lines that differ in one word."""
    names = [a + b for a in "bcdfglmnprst" for b in ("ala", "elo", "ido", "ora", "uma")]
    return "\n".join(pattern.format(names[i]) for i in range(count))


def test_prose_is_kept() -> None:
    assert reason(PROSE) is None


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("empty", ""),
        ("empty", " \n\t\n "),
        ("dup_line_frac", PROSE + "\n" + "\n".join(PROSE.splitlines()[:2])),
        ("top_2_gram", "bom dia " * 40 + PROSE.replace("\n", " ")),
        ("gopher_short_doc", "O gato dormiu na casa da vizinha e não voltou mais."),
        ("line_punct_ratio", PROSE.replace(".", "").replace("\n", " na\n")),
        ("list_ratio", PROSE.replace(" ", "\n").replace(".", "").replace("a\n", "a.\n")),
        ("gopher_above_avg_threshold", numbered("Inconstitucionalissimamente{} de que.", 30)),
        ("gopher_too_many_hashes", PROSE + " #" * 12),
        ("gopher_too_many_ellipsis", PROSE.replace(" ", " … ", 12)),
        ("gopher_too_many_bullets", "- " + PROSE.replace("\n", "\n- ")),
        ("gopher_too_many_end_ellipsis", PROSE.replace(".\n", "...\n")),
        ("gopher_below_alpha_threshold", PROSE + " 7 31 9,5 +" * 25),
        (
            "gopher_enough_stop_words",
            "Rainy afternoons brought children into muddy streets with bright footballs.\n"
            "Grandmother watched everything through her kitchen window while coffee cooled.\n"
            "Nobody knew who left that ancient wooden trunk beside their school gate.\n"
            "Slowly their teacher opened it: letters, photographs, pocket watches, coins inside.",
        ),
    ],
)
def test_reason(expected: str, text: str) -> None:
    family = next(
        (rule.family for rule in heuristic_rules.RULES if rule.reason == expected), "quality"
    )
    assert reason(text, families=(family,)) == expected


def test_short_and_long_lines_are_judged_by_the_thresholds_given() -> None:
    assert reason(PROSE, thresholds={"short_line_ratio": 0.5}) is None
    short = PROSE.replace(" ", "\n", 3)
    assert reason(short, thresholds={"short_line_ratio": 0.3}) == "short_line_ratio"
    assert reason(PROSE, thresholds={"gopher_long_doc": 50}) == "gopher_long_doc"
    assert reason(PROSE, thresholds={"gopher_below_avg_threshold": 6}) == (
        "gopher_below_avg_threshold"
    )


def test_runs_of_words_seen_before_are_counted_by_hand() -> None:
    # 12 words of 2 letters; "aa bb cc dd ee" comes twice: the second time is 10 characters.
    words = ["aa", "bb", "cc", "dd", "ee", "ff", "aa", "bb", "cc", "dd", "ee", "gg"]
    text = " ".join(words)
    assert len(text) == 35
    assert heuristic_rules.seen_before(words, 5) == 10
    assert heuristic_rules.seen_before(words, 6) == 0
    settings = {"families": ("repetition",), "without": ("top_2_gram", "top_3_gram", "top_4_gram")}
    at_most = {"duplicated_5_n_grams": 10 / 35}
    assert reason(text, thresholds=at_most, **settings) is None
    below = {"duplicated_5_n_grams": 10 / 35 - 1e-9}
    assert reason(text, thresholds=below, **settings) == "duplicated_5_n_grams"


def test_the_commonest_run_is_the_first_of_equals_as_in_datatrove() -> None:
    # "a b" and "ccc ddd" both come twice: "a b" came first, 2 times 3 characters.
    words = ["a", "b", "ccc", "ddd", "e", "a", "b", "f", "ccc", "ddd"]
    assert heuristic_rules.top_run(words, 2) == 6
    text = " ".join(words)
    limit = {"top_2_gram": 6 / len(text)}
    settings = {"families": ("repetition",), "without": ("top_3_gram", "top_4_gram")}
    assert reason(text, thresholds=limit, **settings) is None
    limit = {"top_2_gram": 6 / len(text) - 1e-9}
    assert reason(text, thresholds=limit, **settings) == "top_2_gram"


def plain_reason(text: str, chain: Chain) -> str | None:
    """The reason by `heuristic_rules.measure`."""
    if not text.strip():
        return heuristic_rules.EMPTY
    words = words_of(text, chain.settings.words, "pt")
    values = heuristic_rules.measure(text, words, chain.data.stop_words)
    by_reason = {rule.reason: rule for rule in heuristic_rules.RULES}
    for name, threshold in chain.thresholds.items():
        if by_reason[name].drops(values[name], threshold):
            return name
    return None


def random_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    vocabulary = [
        "a",
        "de",
        "que",
        "casa",
        "rio",
        "menino",
        "—",
        "…",
        "...",
        "#",
        "1,5",
        "d'água",
        "guarda-chuva",
        ".",
        ",",
        "e",
        "foi",
        "na",
    ]
    vocabulary += [
        "São",
        "ÉGUA",
        "x" * 30,
        "\u00a0",
        "\x1c",
        "日本語",
        "😀",
        "e\u0301",
        "_",
        "«Sim»",
    ]
    texts = []
    for _ in range(count):
        some = rng.sample(vocabulary, rng.randint(2, len(vocabulary)))
        words = rng.choices(some, k=rng.choice([1, 3, 30, 120, 400]))
        marks = rng.choices([" ", " ", " ", "\n", "\n\n", "", "  ", ".\n"], k=len(words))
        texts.append("".join(w + m for w, m in zip(words, marks, strict=True)))
    return texts


@pytest.mark.parametrize("words", ["fast", "spacy"])
def test_arrays_decide_as_the_plain_rules_do(words: str) -> None:
    if words == "spacy":
        pytest.importorskip("spacy", reason="pip install 'teenytinyllama[spacy]'")
    everything = {
        "dup_para_frac": 0.3, "dup_para_char_frac": 0.2, "dup_line_char_frac": 0.2,
        "short_line_ratio": 0.9, "gopher_short_doc": 20, "list_ratio": 0.4,
    }  # fmt: skip
    chain = Chain(FilterSettings(words=words, thresholds=everything, families=WORD_RULES), "pt")
    texts = [*random_texts(150, seed=1), PROSE, "\n" + PROSE + "\n", "\n", "a"]
    found = [verdict.reason for verdict in chain.judge(texts)]
    assert found == [plain_reason(text, chain) for text in texts]
    assert len(set(found)) > 8  # the texts reach many rules


def test_a_verdict_does_not_depend_on_the_other_texts() -> None:
    chain = Chain(FilterSettings(families=WORD_RULES), "pt")
    texts = random_texts(60, seed=2)
    together = chain.judge(texts)
    assert together == [chain.judge([text])[0] for text in texts]
    assert together == pickle.loads(pickle.dumps(chain)).judge(texts)


@pytest.mark.parametrize("words", ["fast", "spacy"])
def test_strange_texts_get_a_verdict(words: str) -> None:
    if words == "spacy":
        pytest.importorskip("spacy", reason="pip install 'teenytinyllama[spacy]'")
    chain = Chain(FilterSettings(words=words, families=WORD_RULES), "pt")
    texts = [
        "a " * 200_000,
        "x" * 10**6,
        "\0" * 50,
        "abc \ud800 def " * 9,
        "\n" * 10**5 + "a",
        "😀 " * 99,
    ]
    reasons = [verdict.reason for verdict in chain.judge(texts)]
    assert reasons[0] == "top_2_gram"
    assert None not in reasons


def test_scores_hold_the_number_that_dropped_the_text() -> None:
    (verdict,) = Chain(FilterSettings(without=("top_2_gram", "top_3_gram")), "pt").judge(
        [PROSE + "\n" + "\n".join(PROSE.splitlines()[:2])]
    )
    assert verdict.scores["dup_line_frac"] == round(2 / 6, 4)


def test_unknown_names_are_said() -> None:
    with pytest.raises(UserError, match=r'no rule has the name "top_2_grams".*"top_2_gram"'):
        Chain(FilterSettings(without=("top_2_grams",)), "pt")
    with pytest.raises(UserError, match=r"languages/zz/filters\.toml"):
        Chain(FilterSettings(), "zz")


def test_portuguese_has_a_number_for_the_same_rules_under_both_word_rules() -> None:
    thresholds = load_language("pt").thresholds
    assert thresholds["fast"].keys() == thresholds["spacy"].keys()
