"""What belongs to no command: help and version."""

from support.command_line import ttl

from teenytinyllama import __version__


def test_bare_command_shows_the_help():
    done = ttl()
    assert "Usage:" in done.stdout
    assert "pretrain" in done.stdout
    assert done.stderr == ""
    assert done.stdout == ttl("--help").stdout


def test_version():
    assert ttl("--version").stdout == f"ttl {__version__}\n"
