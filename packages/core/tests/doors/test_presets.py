"""The two presets and what hangs on them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from prunelab.doors import PRESETS, Quirks
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Some(Quirks):
    first: bool = False
    second: bool = False


def test_faithful_has_every_quirk_and_fixed_has_none() -> None:
    assert [Some.of(preset) for preset in PRESETS] == [Some(first=True, second=True), Some()]


def test_another_preset_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match="preset is 'other', expected one of faithful, fixed"):
        Some.of("other")
