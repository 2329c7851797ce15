"""The config survives a file, and refuses what does not fit."""

from __future__ import annotations

import pytest

from apt_vit.config import Config, OptimConfig, lower
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError


def test_config_to_plain_data_and_back_is_identity() -> None:
    cfg = Config(optim=OptimConfig(epochs=9))
    assert from_plain(Config, to_plain(cfg)) == cfg


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"preset": "other"}, "faithful, fixed"),
        ({"epoch": 1}, "epochs"),
    ],
)
def test_a_bad_value_is_one_line(raw: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        lower(raw)
