"""`ttl chat`: commands, settings, several models, one line in and one line out."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.small_run import make_run

from teenytinyllama.errors import UserError
from teenytinyllama.inference import chat_repl
from teenytinyllama.inference.chat_model import ChatModel, load_chat_model
from teenytinyllama.inference.chat_repl import ChatOptions, ChatRepl

GREEDY = ("temperature=0", "max_new_tokens=8")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("chat"), max_position_embeddings=96)


@pytest.fixture(scope="module")
def chat_model(run_dir: Path) -> ChatModel:
    return load_chat_model(run_dir)


def lines_of(models: list[Path], text: str, *assignments: str) -> list[str]:
    out = io.StringIO()
    chat_repl.run(models=models, assignments=assignments, stdin=io.StringIO(text), stdout=out)
    return out.getvalue().removesuffix("\n").split("\n")


def test_piped_lines_get_one_reproducible_line_each(run_dir: Path) -> None:
    first = lines_of([run_dir], "Olá\n\nE a raposa?\n", "seed=5", "max_new_tokens=8")
    assert len(first) == 2
    assert lines_of([run_dir], "Olá\nE a raposa?\n", "seed=5", "max_new_tokens=8") == first


def test_a_line_that_is_not_utf8_is_named(run_dir: Path) -> None:
    text = b"Ol\xc3\xa1\nOl\xe1\n".decode("utf-8", "surrogateescape")
    with pytest.raises(UserError, match=r"chat-encoding.*line 2"):
        lines_of([run_dir], text, *GREEDY)


def test_an_answer_ends_before_the_stop_text(run_dir: Path) -> None:
    (whole,) = lines_of([run_dir], "Olá\n", *GREEDY)
    word = next(letter for letter in whole[1:] if letter.isalnum())
    assert lines_of([run_dir], "Olá\n", *GREEDY, f"stop={word}") == [whole[: whole.index(word)]]


def test_several_models_answer_in_turn(run_dir: Path) -> None:
    final = run_dir / "pretrain" / "final"
    answers = lines_of([run_dir, final], "Olá\n", *GREEDY)
    assert len(answers) == 2 and answers[0] == answers[1]


def test_history_counts_until_reset(run_dir: Path) -> None:
    again = lines_of([run_dir], "Olá\nOlá\n/reset\nOlá\n", *GREEDY)
    assert again[0] == again[2]


def test_commands_change_settings_messages_and_files(chat_model: ChatModel, tmp_path: Path) -> None:
    session = ChatRepl([chat_model], ChatOptions().changed("max_new_tokens=4"))
    assert "/reset" in session.command("/help")
    assert "temperature=0.25" in session.command("/set temperature=0.25")
    session.command("/system Seja breve.")
    for _, stream in session.ask("Olá?"):
        list(stream)
    path = tmp_path / "saved.jsonl"
    session.command(f"/save {path}")
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"]
    assert saved["settings"]["temperature"] == 0.25
    assert session.undo() == "Olá?"
    assert [m["role"] for m in session.histories[0].messages] == ["system"]
    session.command("/quit")
    assert session.done


def test_quotes_keep_the_spaces_of_a_stop_text() -> None:
    assert ChatOptions().changed('stop=" fim "').stop == " fim "
    assert ChatOptions().changed("stop= fim ").stop == "fim"
    assert ChatOptions().changed('stop="').stop == '"'


@pytest.mark.parametrize(
    ("line", "code", "fix"),
    [
        ("/rest", "chat-command", 'did you mean "reset"?'),
        ("/set temprature=1", "chat-setting", 'did you mean "temperature"?'),
        ("/set top_k=many", "chat-setting", "/set top_k=0"),
        ("/set top_p=3", "sampling-value", "set top_p to above 0, at most 1"),
        ("/set max_new_tokens=0", "chat-setting", "at least 1"),
        ("/save /no/such/folder/x", "chat-save", "name another file"),
        ("/undo", "chat-command", "ask something"),
    ],
)
def test_wrong_commands_are_errors_with_a_fix(
    chat_model: ChatModel, line: str, code: str, fix: str
) -> None:
    with pytest.raises(UserError) as error:
        ChatRepl([chat_model], ChatOptions()).command(line)
    assert (error.value.code, error.value.fix) == (code, fix)


def test_retry_without_a_question_is_an_error(chat_model: ChatModel) -> None:
    with pytest.raises(UserError, match="/retry - nothing was asked yet"):
        ChatRepl([chat_model], ChatOptions()).undo("/retry")


def test_a_full_context_drops_the_oldest_turns(
    chat_model: ChatModel, capsys: pytest.CaptureFixture[str]
) -> None:
    session = ChatRepl(
        [chat_model], ChatOptions().changed("max_new_tokens=4"), system="Seja breve."
    )
    for _ in range(8):
        for _, stream in session.ask("A raposa mora na floresta."):
            list(stream)  # a prompt of 96 tokens or more would be an error
    assert "are left out" in capsys.readouterr().err


def test_a_question_longer_than_the_context_is_not_kept(
    chat_model: ChatModel,
) -> None:
    session = ChatRepl([chat_model], ChatOptions())
    with pytest.raises(UserError, match="prompt-too-long"):
        for _, stream in session.ask("A raposa " * 100):
            list(stream)
    assert session.histories[0].messages == []


def test_a_stopped_answer_is_kept_in_part(chat_model: ChatModel) -> None:
    session = ChatRepl([chat_model], ChatOptions().changed("max_new_tokens=40"))
    ((history, stream),) = session.ask("Olá")
    first = next(stream)
    stream.close()
    assert history.messages[-1] == {"role": "assistant", "content": first}


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_program(run_dir: Path) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "teenytinyllama.cli", "chat", str(run_dir)]
    command += ["--set", "max_new_tokens=2000", "--set", "temperature=1.5"]
    child = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    seen = ""

    def read_until(words: str) -> None:
        nonlocal seen
        ends = time.monotonic() + 60
        while words not in seen:
            assert time.monotonic() < ends, f"no {words!r} in {seen!r}"
            if select.select([leader], [], [], 0.2)[0]:
                seen += os.read(leader, 65536).decode("utf-8", "replace")
        seen = seen.split(words, 1)[1]

    try:
        read_until("> ")
        os.write(leader, b"/set seed=1\n")
        read_until("seed=1")
        os.write(leader, "Olá\n".encode())
        read_until("tokens/s")
        child.send_signal(signal.SIGINT)  # at the prompt
        assert child.wait(timeout=30) == 0
    finally:
        child.kill()
        os.close(leader)
