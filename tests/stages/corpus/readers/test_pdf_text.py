"""Paragraphs from the lines of a PDF."""

from teenytinyllama.stages.corpus.readers.pdf_text import paragraphs_of

LONG = "Era uma vez uma raposa que morava na floresta com os filhos"


def test_lines_become_paragraphs_and_hyphens_go():
    page = f"{LONG} e gos-\ntava de contar histórias.\n{LONG}\ne os netos."
    assert list(paragraphs_of([page])) == [
        f"{LONG} e gostava de contar histórias.",
        f"{LONG} e os netos.",
    ]


def test_a_hyphen_before_a_name_and_one_of_pdfium_stay_right():
    assert list(paragraphs_of([f"{LONG} e o Rio-\nNiterói.", f"{LONG} gos\ufffetava."])) == [
        f"{LONG} e o Rio- Niterói.",
        f"{LONG} gostava.",
    ]


def test_headers_and_page_numbers_are_no_text_and_paragraphs_cross_pages():
    pages = [f"Contos da floresta\n{LONG} {n}\n{LONG} {n}\n- {n} -" for n in range(5)]
    found = " ".join(paragraphs_of(pages))
    assert found.count("Contos") == 0 and "- 3 -" not in found
    assert f"{LONG} 0 {LONG} 1" in found
