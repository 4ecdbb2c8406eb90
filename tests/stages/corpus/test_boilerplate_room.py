"""Boilerplate of one source leaves its documents and no other source's."""

from pathlib import Path

from corpus_room import Room, json_lines

MENU = "Início | Notícias"


def test_a_menu_leaves_the_source_that_repeats_it(room: Room, tmp_path: Path) -> None:
    pages = [f"{MENU}\nA notícia número {n} fala do rio {n * 7}.\nMenu" for n in range(30)]
    (tmp_path / "site.jsonl").write_bytes(json_lines(*pages))
    story = f"Na tela lia-se:\n{MENU}\nE nada mais."
    (tmp_path / "livro.jsonl").write_bytes(json_lines(story, "Outro conto, bem curto."))
    filters = {"families": [], "max_boilerplate_fraction": 0.5}
    sources = (tmp_path / "site.jsonl", tmp_path / "livro.jsonl")
    plain = {"near_duplicates": None, "repeated_paragraphs": None}
    left = room(*sources, filters=filters, out="a", **plain)
    found = set(left.texts())
    assert found == {f"A notícia número {n} fala do rio {n * 7}." for n in range(30)} | {
        story,
        "Outro conto, bem curto.",
    }
    assert set(room(*sources, out="b", **plain).texts()) == {
        *pages,
        story,
        "Outro conto, bem curto.",
    }
