"""Streamed text: complete characters only, and nothing from a stop string onwards."""

from __future__ import annotations

from teenytinyllama.inference.text_stream import TextStream

EMOJI = [bytes([byte]) for byte in "🦊".encode()]
VOCABULARY = [b" ol", *EMOJI, b"!", b" Usu", b"ario", b"\xc3", b"x"]


def test_text_is_whole_characters_and_ends_before_a_stop_string() -> None:
    text = TextStream(VOCABULARY, stop=["Usuario"])
    assert [text.push(token) for token in range(6)] == ["ol", "", "", "", "🦊", "!"]
    assert text.push(6) == " " and not text.stopped
    assert text.push(7) == "" and text.stopped


def test_bytes_that_are_no_character_are_replaced() -> None:
    text = TextStream(VOCABULARY)
    assert [text.push(token) for token in (8, 9)] == ["", "\ufffdx"]
    assert text.push(8) == "" and text.finish() == "\ufffd"
