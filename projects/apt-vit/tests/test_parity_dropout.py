"""Where dropout draws, and in which order."""

from __future__ import annotations

import pytest
import torch

from apt_vit.tokens import passes
from apt_vit.tokens.rules import Rule
from testing.parity import Folder, of_kind

from .recorded import load_model


@pytest.mark.parity
@of_kind("dropout_on")
@torch.no_grad()
def test_passes_with_dropout_draw_as_recorded(folder: Folder) -> None:
    model, arrays = load_model(folder), folder.arrays("data.npz")
    assert model is not None
    model.train()
    torch.manual_seed(folder.facts["torch_seed"])
    first, second = passes.plain(model, arrays["x"]), passes.plain(model, arrays["x"])
    rule = Rule(threshold=folder.facts["threshold"])
    pruned = passes.masked(model, arrays["x"], folder.facts["clip_layer_id"], rule).logits
    for name, found in {"s0_a": first, "s0_b": second, "s1": pruned}.items():
        torch.testing.assert_close(found, arrays[name], atol=1e-5, rtol=1e-5)
