"""Which token a single action removes, as recorded."""

from __future__ import annotations

import random

import pytest
import torch

from apt_vit.config import Config, QuirkConfig
from apt_vit.learning.actions import choose
from prunelab.errors import UserError
from testing.parity import Folder, of_kind

CONFIG = Config(quirks=QuirkConfig.of("faithful"))


@pytest.mark.parity
@of_kind("action_sampling")
def test_actions_are_the_recorded_ones_and_fail_where_the_original_does(folder: Folder) -> None:
    cases = folder.json("cases.json")
    assert cases
    for case in cases:
        greedy = torch.tensor(case["greedy_index"])
        probability = torch.full((case["B"], case["N"]), 0.25).scatter(1, greedy[:, None], 0.75)
        rng = random.Random(case["py_seed"])
        if case["error"] is not None:
            with pytest.raises(UserError, match=f"micro-batch of {case['B']} picture"):
                choose(probability, CONFIG, rng)
        else:
            assert choose(probability, CONFIG, rng).tolist() == case["action"], case
