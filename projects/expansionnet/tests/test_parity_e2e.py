"""The end-to-end model against the original: outputs, partial loading, names of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expansionnet.model import build
from expansionnet.model.body import split_backbone
from expansionnet.model.swin import build_swin, from_official, load_backbone, to_official
from testing.parity import Folder, of_kind

from .recorded import checkpoint_of, load_model, model_config, swin_config


def assert_within(folder: Folder, found: dict[str, Tensor], recorded: dict[str, Tensor]) -> None:
    for name, value in found.items():
        torch.testing.assert_close(
            value, recorded[name], atol=folder.tolerance[name], rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def official_backbone(folder: Folder) -> dict[str, Tensor]:
    return folder.weights(folder.facts["files"]["backbone"])["model"]


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_outputs_agree(folder: Folder) -> None:
    model, io = load_model(folder), folder.arrays("io.npz")
    with torch.no_grad():
        found = {
            "swin_out": model.backbone(io["images"]),
            "enc_out": model.encode(io["images"]),
            "logits": model(io["images"], io["dec_x"], None, io["dec_pads"]),
        }
    assert_within(folder, found, io)


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_official_backbone_with_the_body_of_a_checkpoint_agrees(folder: Folder) -> None:
    io = folder.arrays("io.npz")
    model = build(model_config(folder.facts)).eval()
    load_backbone(model.swin_transf, official_backbone(folder), "the backbone")
    body, _ = split_backbone(checkpoint_of(folder))
    model.load_state_dict(body, strict=False)
    with torch.no_grad():
        found = {
            "swin_out": model.backbone(io["images"]),
            "logits": model(io["images"], io["dec_x"], None, io["dec_pads"]),
        }
    assert_within(folder, found, folder.arrays("partial_load.npz"))


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_backbone_in_timms_naming_gives_the_same(folder: Folder) -> None:
    renamed = from_official(official_backbone(folder))
    swin = build_swin(swin_config(folder.facts["swin"])).eval()
    load_backbone(swin, renamed, "the backbone")
    with torch.no_grad():
        found = {"swin_out": swin(folder.arrays("io.npz")["images"])}
    assert_within(folder, found, folder.arrays("partial_load.npz"))
    assert from_official(renamed).keys() == renamed.keys() == swin.state_dict().keys()


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_state_has_the_originals_names_shapes_types_and_constants_in_its_order(folder: Folder) -> None:
    state, recorded = load_model(folder).original_state(), checkpoint_of(folder)
    found = [(name, [list(value.shape), str(value.dtype)]) for name, value in state.items()]
    assert found == list(folder.json("state_dict_keys.json").items())
    for name, value in recorded.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_parameters_are_in_the_originals_order(folder: Folder) -> None:
    model = load_model(folder)
    body, backbone = split_backbone(dict(model.named_parameters()))
    names = [f"swin_transf.{name}" for name in to_official(backbone)] + list(body)
    constants = (".attn_mask", ".relative_position_index")
    assert names == [n for n in folder.json("state_dict_keys.json") if not n.endswith(constants)]
