"""How weights begin."""

from __future__ import annotations

import pytest
import torch

from apt_vit.model import VisionTransformer, build
from testing.parity import Folder, of_kind

from .recorded import model_config


def model_of(folder: Folder) -> VisionTransformer:
    torch.manual_seed(folder.facts["torch_seed"])
    return build(model_config(folder.facts))


@pytest.mark.parity
@of_kind("init")
def test_names_order_and_number_of_parameters_are_the_recorded_ones(folder: Folder) -> None:
    model, expected = model_of(folder), folder.json("expected.json")
    assert list(model.state_dict()) == expected["key_order"]
    assert [name for name, _ in model.named_parameters()] == expected["parameter_order"]
    assert sum(p.numel() for p in model.parameters()) == expected["n_params"]


@pytest.mark.parity
@of_kind("init")
def test_seeded_weights_are_the_recorded_ones(folder: Folder) -> None:
    state, checks = model_of(folder).state_dict(), folder.json("expected.json")["checks"]
    assert set(checks) == set(state)
    for name, check in checks.items():
        values = state[name].double().flatten()
        assert list(state[name].shape) == check["shape"], name
        first = torch.tensor(check["first"], dtype=torch.float64)
        torch.testing.assert_close(values[: len(first)], first, atol=1e-7, rtol=1e-6, msg=name)
        assert values.sum().item() == pytest.approx(check["sum"], rel=1e-5, abs=1e-4), name
        assert values.mean().item() == pytest.approx(check["mean"], rel=1e-5, abs=1e-6), name
        spread = values.std().item() if len(values) > 1 else 0.0
        assert spread == pytest.approx(check["std"], rel=1e-4, abs=1e-9), name


@pytest.mark.parity
@of_kind("init")
def test_agents_begin_equal(folder: Folder) -> None:
    agents = model_of(folder).transformer.encoder.clip_layer
    assert len(agents) == len(folder.facts["clip_layer_id"])
    first, *others = (agent.state_dict() for agent in agents)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
