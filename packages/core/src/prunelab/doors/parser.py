"""An argparse parser that keeps the original's flags apart from ours, and complains in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from prunelab.doors.names import did_you_mean
from prunelab.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are `UserError`s, and which keeps two kinds of flags apart.

    Flags added with `add_argument` are the original system's: unique prefixes of them work, as they did
    there. Flags added with `add_own_argument` are ours and match in full only, so that they never change what
    a prefix of an original flag means. Unknown flags and choices are answered with the nearest known ones.

    Args:
        prog: The project and its command, e.g. ``"smp-caption train"``; help begins with it.
        summary: One line for the help.
        version: What ``--version`` prints; without it there is no such flag.
        **options: Passed on to argparse.
    """

    def __init__(self, prog: str, summary: str = "", *, version: str | None = None, **options: Any) -> None:
        self._own_actions: list[argparse.Action] = []
        self._own_group: argparse._ArgumentGroup | None = None
        self._has_pairs = False
        self.summary = summary
        super().__init__(prog=prog, **options)
        if version is not None:
            self.add_own_argument("--version", action="version", version=f"{prog.split()[0]} {version}")

    def add_own_argument(self, *flags: str, **options: Any) -> argparse.Action:
        """Add a flag of ours: matched in full only, listed in a group of its own.

        ``--max-steps`` may be typed as ``--max_steps``, unless that is another flag.
        """
        if self._own_group is None:
            self._own_group = self.add_argument_group("PruneLab's own flags (to be written in full)")
        action = self._own_group.add_argument(*flags, **options)
        self._own_actions.append(action)
        for flag in (flag for flag in flags if flag.startswith("--")):
            self._option_string_actions.setdefault("--" + flag.lstrip("-").replace("-", "_"), action)
        return action

    def add_pairs(self, help: str = "settings that take the place of the file's") -> None:
        """Take trailing ``KEY VALUE ...`` (attribute ``pairs``); flags may still follow them."""
        self.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=help)
        self._has_pairs = True

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; with `add_pairs`, a flag where a KEY is expected ends the pairs and is parsed as a flag."""
        arguments = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(arguments, namespace)
        if not self._has_pairs:
            return found, unknown
        pairs: list[str] = []
        while rest := found.pairs:
            flags = next((i for i in range(0, len(rest), 2) if rest[i].startswith("--")), len(rest))
            pairs += rest[:flags]
            if flags == len(rest):
                break
            arguments = arguments[: len(arguments) - len(rest)] + rest[flags:]
            found, unknown = super().parse_known_args(arguments, namespace)
        found.pairs = pairs
        return found, unknown

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse all arguments.

        Raises:
            UserError: An argument that does not fit; unknown flags come with the nearest known ones.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            if not flag.startswith("-"):
                self.error(f"unexpected argument {unknown[0]!r}")
            known = [
                name for action in self._actions for name in action.option_strings if name.startswith("--")
            ]
            self.error(f"unknown flag {flag}: {did_you_mean(flag, known)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as a `UserError`."""
        raise UserError(f"{self.prog}: {message}")

    def format_help(self) -> str:
        """The help: project and command first, then usage and flags."""
        return f"{self.prog}: {self.summary}\n\n{super().format_help()}"

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        # called by argparse for what matches no flag in full: prefixes of our own flags do not count
        return [
            found for found in super()._get_option_tuples(option_string) if found[0] not in self._own_actions
        ]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = did_you_mean(str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, f"{value!r} is not possible: {hint}")
