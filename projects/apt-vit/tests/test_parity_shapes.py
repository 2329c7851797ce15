"""Every named configuration builds the recorded shapes, on the meta device."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from apt_vit.configs import CONFIGS
from apt_vit.model import build
from testing.parity import Folder, of_kind

from .recorded import model_config


def shapes_of(case: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of shapes alone."""
    with torch.device("meta"):
        return build(model_config({**case["config"], **case})).state_dict()


@pytest.mark.parity
@of_kind("named_config_shapes")
def test_named_configurations_have_the_recorded_values(folder: Folder) -> None:
    cases = folder.json("configs.json")
    assert cases
    for name, case in cases.items():
        assert CONFIGS[name]().to_dict() == to_tuples(case["config"]), name


def to_tuples(value: Any) -> Any:
    """JSON's lists as a ConfigDict's tuples."""
    if isinstance(value, dict):
        return {key: to_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parity
@of_kind("named_config_shapes")
def test_named_configurations_build_the_recorded_weights(folder: Folder) -> None:
    for name, case in folder.json("configs.json").items():
        state = shapes_of(case)
        assert len(state) == case["n_keys"], name
        lines = "\n".join(f"{key} {list(value.shape)}" for key, value in state.items())
        assert hashlib.sha256(lines.encode()).hexdigest() == case["keys_sha256"], name
        assert sum(value.numel() for value in state.values()) == case["total_params"], name
        agents = [value.numel() for key, value in state.items() if ".clip_layer." in key]
        assert sum(agents) == case["agent_params"], name
        listed = {k: list(v.shape) for k, v in state.items() if not re.search(r"\.layer\.[1-9]\d*\.", k)}
        assert listed == case["shapes_first_block_only"], name
