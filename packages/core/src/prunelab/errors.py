"""What a user sees when something is wrong: one clear line and exit code 2."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that names the thing, its value and what was expected.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Command(Protocol):
    """The ``main`` of a command."""

    def __call__(self, argv: Sequence[str] | None = None, /) -> None:
        """Run with these arguments, or with those of the process."""


def entry(main: Callable[[Sequence[str] | None], None]) -> Command:
    """Wrap the ``main(argv=None)`` of a command: a `UserError` becomes one line on stderr and exit code 2.

    Ctrl-C ends without a traceback (130), and so does a reader that closed our output, as ``| head`` does
    (141). ``--traceback`` anywhere on the command line lets exceptions through, for developers; the wrapped
    function receives the arguments without it.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None, /) -> None:
        arguments = list(sys.argv[1:] if argv is None else argv)
        show_traceback = "--traceback" in arguments
        arguments = [a for a in arguments if a != "--traceback"]
        try:
            main(arguments)
        except (UserError, KeyboardInterrupt, BrokenPipeError) as error:
            if show_traceback:
                raise
            sys.exit(_farewell(error))

    return wrapped


def _farewell(error: BaseException) -> int:
    """Say what there is to say about the end of a command, and give its exit code."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    # nobody reads any more: the interpreter must not try to flush into the closed pipe when it exits
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_CLOSED_PIPE
