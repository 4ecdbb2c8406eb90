"""The text of a PDF, in a process of its own: `python -m ... FILE`, UTF-8 on standard output.

A PDF has lines, not paragraphs. Lines are joined where one is as long as its page's lines are, and
words where a hyphen parts them. Lines that stand on most pages, and page numbers, are left out.
"""

from __future__ import annotations

import re
import resource
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

PASSWORD, DAMAGED, NO_TEXT = 3, 4, 5
"""Exit codes: it asks for a password, cannot be read, has pictures of text at most."""
MAX_MEMORY_BYTES = 4 << 30
MIN_CHARACTERS_PER_PAGE = 20
FULL_LINE = 0.8
MIN_PAGES_TO_REPEAT = 4
NUMBER = re.compile(r"[\W\d]*\d[\W\d]*|[ivxlcdm]+")
HYPHENATED = re.compile(r"[^\W\d_][-\u00ad\u2010]$")


def paragraphs_of(pages: Sequence[str]) -> Iterator[str]:
    r"""The paragraphs of pages of lines.

    >>> list(paragraphs_of(["Uma raposa curi-\nosa veio.\nDepois, saiu do quintal.\n7"]))
    ['Uma raposa curiosa veio.', 'Depois, saiu do quintal.']
    """
    lines_by_page = [_lines(page) for page in pages]
    at_edges = Counter(
        line for lines in lines_by_page for line in {*lines[:2], *lines[-2:]} if line
    )
    often = max(MIN_PAGES_TO_REPEAT, len(pages) // 3)
    repeated = {line for line, count in at_edges.items() if count >= often}
    held = ""
    for lines in lines_by_page:
        lengths = sorted(map(len, lines))
        full = FULL_LINE * lengths[len(lengths) * 9 // 10] if lengths else 0
        for place, line in enumerate(lines):
            is_edge = place == 0 or place == len(lines) - 1
            if line in repeated or (is_edge and NUMBER.fullmatch(line)):
                continue
            if not line:
                if held:
                    yield held
                held = ""
                continue
            if HYPHENATED.search(held) and line[0].islower():
                held = held[:-1] + line
            else:
                held = f"{held} {line}" if held else line
            if len(line) < full and not HYPHENATED.search(line):
                yield held
                held = ""
    if held:
        yield held


def _lines(page: str) -> list[str]:
    # PDFium writes U+FFFE for a hyphen at the end of a line, and joins the two.
    text = page.replace("\ufffe", "").replace("\x00", "")
    return [" ".join(line.split()) for line in text.splitlines()]


def main(path: str) -> int:
    """Write the text of a PDF; the exit code says why there is none."""
    import pypdfium2

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    try:
        document = pypdfium2.PdfDocument(path)
        pages = [page.get_textpage().get_text_range() for page in document]
    except pypdfium2.PdfiumError as error:
        sys.stderr.write(f"{error}\n")
        return PASSWORD if "password" in str(error).lower() else DAMAGED
    if sum(map(len, pages)) < MIN_CHARACTERS_PER_PAGE * len(pages):
        sys.stderr.write(f"{len(pages)} pages with nearly no text: scanned? `ocrmypdf` adds it\n")
        return NO_TEXT
    sys.stdout.buffer.write("\n\n".join(paragraphs_of(pages)).encode("utf-8", "replace"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
