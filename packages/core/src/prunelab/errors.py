"""What a user sees when something is wrong: one clear line and exit code 2."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake that the user can mend: the message is one line naming the thing, its value and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def entry(main: Callable[[Sequence[str] | None], None]) -> Callable[[Sequence[str] | None], None]:
    """Wrap the ``main(argv=None)`` of a command so that a `UserError` becomes one line on stderr and exit code 2.

    ``--traceback`` anywhere on the command line lets the exception through, for developers; the wrapped function
    receives the arguments without it.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> None:
        arguments = list(sys.argv[1:] if argv is None else argv)
        show_traceback = "--traceback" in arguments
        arguments = [a for a in arguments if a != "--traceback"]
        try:
            main(arguments)
        except UserError as error:
            if show_traceback:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)

    return wrapped
