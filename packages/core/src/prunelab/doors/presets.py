"""The two ways in which every project runs, and the quirks of an original that tell them apart."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Self

from prunelab.doors.checks import check_one_of

PRESETS = ("faithful", "fixed")
"""The original with its quirks, and without them."""


class Quirks:
    """What a frozen dataclass of switches inherits, in each of which True is the original's way."""

    @classmethod
    def of(cls, preset: str) -> Self:
        """All quirks of ``faithful`` (every one on) or ``fixed`` (every one off).

        Raises:
            UserError: there is no such preset.
        """
        check_one_of("preset", preset, PRESETS)
        assert is_dataclass(cls)
        return cls(**{f.name: preset == "faithful" for f in fields(cls)})
