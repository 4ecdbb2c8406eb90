"""The text of books and office documents: .pdf by PDFium, the others by pandoc.

Both are programs that strangers' files have broken before: each file is read in a process of its
own, with a limit on its time and memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from teenytinyllama.errors import missing_extra
from teenytinyllama.stages.corpus.readers import pdf_text

MAX_SECONDS = 300
MAX_TEXT_BYTES = 256 << 20
# Lines that draw a table, and the places of pictures.
DRAWN = re.compile(r"[ \t]*[-+=|: ]{3,}|[ \t]*\[?[^\[\]\n]*\.(?:png|jpe?g|gif|svg|emf|wmf)\]?")
PDF_REASONS = {
    pdf_text.PASSWORD: "document-encrypted",
    pdf_text.NO_TEXT: "document-without-text",
}


class DocumentError(Exception):
    """A document without text to use: the reason for quarantine, and a detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def text_of_document(path: Path) -> str:
    """The text of a document, its paragraphs apart by blank lines. Raises DocumentError."""
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        command = [sys.executable, "-m", pdf_text.__name__, str(path)]
    else:
        options = ["--sandbox", "--from", suffix[1:], "--to", "plain", "--wrap=none"]
        command = [
            _pandoc(),
            "+RTS",
            f"-M{pdf_text.MAX_MEMORY_BYTES >> 20}m",
            "-RTS",
            *options,
            str(path),
        ]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DocumentError("document-too-slow", f"more than {MAX_SECONDS} s") from error
    if ended.returncode:
        lines = ended.stderr.decode("utf-8", "replace").strip().splitlines() or ["?"]
        reason = PDF_REASONS.get(ended.returncode, "document-damaged")
        raise DocumentError(reason if suffix == ".pdf" else "document-damaged", lines[-1][:200])
    if len(ended.stdout) > MAX_TEXT_BYTES:
        raise DocumentError("document-too-long", f"{len(ended.stdout)} bytes of text")
    text = ended.stdout.decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if not DRAWN.fullmatch(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _pandoc() -> str:
    try:
        import pypandoc

        return str(pypandoc.get_pandoc_path())
    except (ImportError, OSError) as error:  # or the library without the program
        raise missing_extra("pypandoc_binary", "documents") from error
