"""Errors that a user can cause, each one line; anything else is a bug and keeps its traceback.

The command line turns these into exit codes: `UserError` 2, `Interrupted` 75.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TtlError(Exception):
    """Base of the errors that the command line prints without a traceback."""

    exit_code = 1


class UserError(TtlError):
    """The user's input is wrong.

    `where`: file:line:field, or the wrong thing; `what`: what was found and what was expected;
    `fix`: the next thing to type; `code`: short, stable, easy to grep for.

    >>> str(UserError("corpus-empty", "corpus", "0 documents remain", "loosen corpus.filters"))
    'error[corpus-empty] corpus - 0 documents remain - fix: loosen corpus.filters'
    """

    exit_code = 2

    def __init__(self, code: str, where: str, what: str, fix: str) -> None:
        super().__init__(f"error[{code}] {where} - {what} - fix: {fix}")
        self.code, self.where, self.what, self.fix = code, where, what, fix

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str, str]]:
        """Pickled by its four parts, so that it arrives from worker processes."""
        return type(self), (self.code, self.where, self.what, self.fix)


class RecipeWarning(UserError):  # noqa: N818 (nothing is wrong yet)
    """What `ttl check` finds doubtful and a run does all the same: `warning[CODE] ...`."""

    def __str__(self) -> str:
        return super().__str__().replace("error[", "warning[", 1)


class SeveralErrors(TtlError):  # noqa: N818 (a plural)
    """Several problems that were found at once, each on a line of its own."""

    exit_code = 2

    def __init__(self, errors: Sequence[UserError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)


class Interrupted(TtlError):  # noqa: N818 (nothing is wrong)
    """Stopped by a signal or a full disk; the same command resumes the work."""

    exit_code = 75

    def __init__(self, reason: str) -> None:
        super().__init__(f"stopped: {reason}. Run the same command again to resume.")
        self.reason = reason


class MissingExtraError(UserError, ImportError):
    """An optional library is not installed; also an ImportError, as callers expect."""


def missing_extra(library: str, extra: str) -> MissingExtraError:
    """The error for an optional library that is not installed; it names the extra to install."""
    return MissingExtraError(
        "extra-missing",
        library,
        f"this stage needs the library {library}, which is not installed",
        f"pip install 'teenytinyllama[{extra}]'",
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, or the known words where none is close.

    >>> did_you_mean("learing_rate", ["learning_rate", "seed"])
    'did you mean "learning_rate"?'
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else f"use one of: {', '.join(known)}"
