"""Each language folder has its files, and they fit its text."""

from __future__ import annotations

from teenytinyllama.languages import known_languages, letters_of, prompts_of
from teenytinyllama.synthetic import dataset as synthetic


def test_every_language_folder_has_its_files() -> None:
    assert known_languages() == ("bn", "gl", "pt")
    for language in ("gl", "bn"):
        assert len(prompts_of(language)) >= 3
        assert len(letters_of(language)) > 50
        made = synthetic.documents(num_documents=150, language=language)
        written = {c for document in made for c in document.text if c.isalpha()}
        assert written <= set(letters_of(language))


def test_a_language_without_a_folder_has_defaults() -> None:
    assert prompts_of("yo") == ("",)
    assert letters_of("yo") == ""
