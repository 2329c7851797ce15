"""Checks of a configuration's values, for ``__post_init__``: one line that names field, value and range."""

from __future__ import annotations

from collections.abc import Iterable

from prunelab.doors.names import did_you_mean, nearest
from prunelab.errors import UserError


def check_one_of(name: str, value: object, allowed: Iterable[object]) -> None:
    """Refuse a value that is none of those allowed, and propose the nearest.

    Raises:
        UserError: it is none of them.
    """
    choices = list(allowed)
    if value not in choices:
        words = [str(choice) for choice in choices]
        hint = f"; {did_you_mean(str(value), words)}" if nearest(str(value), words) else ""
        raise UserError(f"{name} is {value!r}, expected one of {', '.join(words)}{hint}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuse a value that is NaN or below ``least``.

    Raises:
        UserError: it is.
    """
    if not value >= least:
        raise UserError(f"{name} is {value}, expected at least {least}")


def check_above(name: str, value: float, bound: float) -> None:
    """Refuse a value that is NaN or not above ``bound``.

    Raises:
        UserError: it is.
    """
    if not value > bound:
        raise UserError(f"{name} is {value}, expected more than {bound}")


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value that is NaN or outside [low, high].

    Raises:
        UserError: it is.
    """
    if not low <= value <= high:
        raise UserError(f"{name} is {value}, expected {low} to {high}")


def check_share(name: str, value: float) -> None:
    """Refuse a value that is NaN or outside [0, 1): a share of which something must be left.

    Raises:
        UserError: it is.
    """
    if not 0 <= value < 1:
        raise UserError(f"{name} is {value}, expected 0 <= {name} < 1")


def check_order(low_name: str, low: float, high_name: str, high: float) -> None:
    """Refuse the two ends of a range that are the wrong way round.

    Raises:
        UserError: the low end is above the high one, or one of them is NaN.
    """
    if not low <= high:
        raise UserError(f"{low_name} is {low} and {high_name} {high}, expected {low_name} <= {high_name}")


def check_device(device: str) -> None:
    """Refuse what is no name of a device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: it is none.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise UserError(f"device is {device!r}, expected auto, cpu, cuda or cuda:N")
