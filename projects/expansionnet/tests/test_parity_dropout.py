"""Places, rates and order of the dropouts: each replaced by a multiplication with one minus its rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from expansionnet.model import ExpansionNet, build
from expansionnet.model.dropout import Dropout, Kept
from testing.parity import Folder, of_kind

from .recorded import beside, checkpoint_of, model_config, model_facts

FIELDS = {
    "enc": "enc_drop",
    "dec": "dec_drop",
    "enc_input": "enc_input_drop",
    "dec_input": "dec_input_drop",
    "other": "drop_other",
}

Calls = list[float]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Rates of the dropouts called so far, each of which shrinks its input."""
    found: Calls = []

    def keep(self: Dropout, shape: Sequence[int], device: torch.device) -> Kept:
        if not self.active:
            return Kept()
        found.append(self.p)
        return Kept(mask=torch.ones(tuple(shape), dtype=torch.uint8), scale=1 - self.p)

    monkeypatch.setattr(Dropout, "keep", keep)
    return found


def training_model(folder: Folder, rates: dict[str, float]) -> ExpansionNet:
    """The folder's model in train mode, with the rates given by the original's names and no others."""
    cfg = replace(model_config(model_facts(folder)), **{FIELDS[name]: rate for name, rate in rates.items()})
    model = build(cfg, fresh=False)
    model.load_original(checkpoint_of(folder))
    return model.train()


def inputs_of(folder: Folder) -> dict[str, Tensor]:
    path = beside(folder, folder.facts["inputs"])
    return Folder(path=path.parent, kind="", facts={}, about={}).arrays(path.name)


def assert_within(folder: Folder, found: Tensor, name: str) -> None:
    expected = folder.arrays("expected.npz")[name]
    torch.testing.assert_close(
        found.detach(),
        expected,
        atol=folder.tolerance["all"],
        rtol=0,
        msg=lambda m: f"{name}: {m}",
    )


@pytest.mark.parity
@of_kind("dropout_places")
@pytest.mark.parametrize("grad", [False, True], ids=["without gradients", "with gradients"])
def test_outputs_with_all_rates_and_the_order_of_calls_agree(
    folder: Folder, grad: bool, calls: Calls
) -> None:
    recorded, io = folder.json("rates.json"), inputs_of(folder)
    model = training_model(folder, recorded["rates"])
    with torch.set_grad_enabled(grad):
        encoded = model.encode(io["enc_x"], io["enc_pads"])
        logits = model.decode(encoded, io["dec_x"], io["enc_pads"], io["dec_pads"])
    assert_within(folder, encoded, "enc_out")
    assert_within(folder, logits, "logits_padded")
    assert calls == recorded["dropout_calls_in_order"]
    if grad:
        logits.sum().backward()
        assert calls == recorded["dropout_calls_in_order"], "a dropout was called in the backward pass"


@pytest.mark.parity
@of_kind("dropout_places")
@pytest.mark.parametrize("grad", [False, True], ids=["without gradients", "with gradients"])
def test_logits_with_one_rate_alone_agree(folder: Folder, grad: bool, calls: Calls) -> None:
    rates, io = folder.json("rates.json")["rates"], inputs_of(folder)
    tried = [name for name in rates if f"logits_only_{name}" in folder.arrays("expected.npz")]
    assert tried
    for name in tried:
        model = training_model(folder, {name: rates[name]})
        with torch.set_grad_enabled(grad):
            logits = model(io["enc_x"], io["dec_x"], io["enc_pads"], io["dec_pads"])
        assert_within(folder, logits, f"logits_only_{name}")
        assert rates[name] in calls
