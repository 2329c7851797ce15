"""What a file of weights is, and of which sizes, is told from its names and shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from expansionnet.config import SwinConfig
from expansionnet.files.loading import open_weights
from expansionnet.files.recognise import OFFICIAL_SWIN, ORIGINAL, TIMM_SWIN, config_of, recognise
from expansionnet.model.swin import build_swin, full_state, to_official
from prunelab.errors import UserError
from testing.parity import Folder, of_kind

from ..small import SAID, SWIN, captioner, fields_that_tensors_tell


def swin(cfg: SwinConfig = SWIN) -> nn.Module:
    torch.manual_seed(1)
    return build_swin(cfg)


def official(module: nn.Module, *, buffers: bool = True) -> dict[str, Tensor]:
    state = full_state(module) if buffers else module.state_dict()
    return {**to_official(state), "head.weight": torch.zeros(7, SWIN.width), "head.bias": torch.zeros(7)}


@pytest.mark.parametrize("end_to_end", [False, True])
def test_sizes_are_those_of_the_tensors(end_to_end: bool, tmp_path: Path) -> None:
    model = captioner(end_to_end=end_to_end).model
    found = recognise({"model_state_dict": model.original_state()}, tmp_path)
    assert found.kind == ORIGINAL
    assert (found.vocab_size, found.max_seq_len) == (model.cfg.vocab_size, model.cfg.max_seq_len)
    sizes = fields_that_tensors_tell(config_of(found, SAID))
    assert sizes == fields_that_tensors_tell(model.cfg)
    assert found.state.keys() == model.state_dict().keys()
    assert bool(found.backbone) is end_to_end
    assert (found.swin is not None) is end_to_end
    assert all("attn_mask" in name or "relative_position_index" in name for name in found.unused)
    assert bool(found.unused) is end_to_end


def test_a_backbones_sizes_are_told_by_its_tables_and_masks(tmp_path: Path) -> None:
    shifted = SwinConfig(
        img_size=64, patch_size=4, embed_dim=8, depths=(2, 2, 4), num_heads=(1, 2, 4), window_size=4
    )
    clipped = replace(shifted, window_size=8)  # the last stage, of 4 by 4 tokens, is smaller than a window
    for cfg in (SWIN, shifted, clipped):
        found = recognise({"model": official(swin(cfg))}, tmp_path)
        assert found.kind == OFFICIAL_SWIN
        assert found.swin == replace(cfg, drop_path_rate=found.swin.drop_path_rate)


def test_without_masks_the_last_stage_is_taken_for_one_window(tmp_path: Path) -> None:
    cfg = replace(SWIN, img_size=64)
    found = recognise({"model": official(swin(cfg), buffers=False)}, tmp_path).swin
    assert found is not None
    assert found.img_size == 32 < cfg.img_size


def test_both_namings_of_a_backbone_are_one(tmp_path: Path) -> None:
    module = swin()
    save_file(module.state_dict(), tmp_path / "timm.safetensors")
    torch.save({"model": official(module)}, tmp_path / "official.pth")
    timm, published = (open_weights(tmp_path / name) for name in ("timm.safetensors", "official.pth"))
    assert (timm.kind, published.kind) == (TIMM_SWIN, OFFICIAL_SWIN)
    assert timm.backbone.keys() == published.backbone.keys() == module.state_dict().keys()
    assert {"head.weight", "head.bias"} < set(published.unused)
    assert not timm.unused
    assert str(published) == "an official Swin file: a backbone"
    assert not published.body


def test_what_is_said_and_what_is_found_must_agree(tmp_path: Path) -> None:
    found = recognise(captioner().model.original_state(), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"max_seq_len is 60, expected 12, which .*model.pth has"):
        config_of(found, {**SAID, "max_seq_len": 60})
    with pytest.raises(UserError, match=r"8 static expansion vectors, but num_exp_enc_list is \[4, 8\]"):
        config_of(found, {**SAID, "num_exp_enc_list": (4, 8)})
    with pytest.raises(UserError, match=r"num_exp_enc_list is \[32, 64, 128, 256, 512\]"):
        config_of(found)
    with_backbone = recognise(captioner(end_to_end=True).model.original_state(), tmp_path)
    with pytest.raises(UserError, match="swin_window_size is 7, expected 4"):
        config_of(with_backbone, {**SAID, "swin_window_size": 7})


def test_other_files_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth: holds conv1.weight, \.\.\., expected a model of the"):
        open_weights(tmp_path / "other.pth")
    torch.save({"model": {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}}, tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"vit.pth: a backbone without layers.0.blocks.0"):
        open_weights(tmp_path / "vit.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"12")
    with pytest.raises(UserError, match=r"cut.safetensors: missing, damaged or cut off"):
        open_weights(tmp_path / "cut.safetensors")
    state = captioner().model.original_state()
    del state["pos_encoder.weight"]
    torch.save({"model_state_dict": state}, tmp_path / "lacks.pth")
    with pytest.raises(UserError, match=r"lacks.pth: pos_encoder.weight is missing"):
        config_of(open_weights(tmp_path / "lacks.pth"), SAID)
    torch.save({"model": official(swin())}, tmp_path / "swin.pth")
    with pytest.raises(UserError, match=r"swin.pth: an official Swin file: a backbone, expected a captioner"):
        config_of(open_weights(tmp_path / "swin.pth"))


def test_a_model_of_an_ensemble_has_no_place_for_its_unused_layer(tmp_path: Path) -> None:
    state = captioner().model.original_state() | {"dummy_linear.weight": torch.zeros(1, 1)}
    found = recognise(state, tmp_path)
    assert found.unused == ("dummy_linear.weight",)
    assert "dummy_linear.weight" not in found.state


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_recorded_sizes_are_found(folder: Folder) -> None:
    facts = folder.facts
    sizes, swin_sizes = dict(facts), facts["swin"]
    for name in facts["files"].values():
        found = open_weights(folder.path / name)
        assert found.swin is not None
        ours = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(found.swin).items()}
        assert {key: ours[key] for key in swin_sizes if key in ours} == {
            key: value for key, value in swin_sizes.items() if key in ours
        }
        if found.body:
            said = {"num_heads": facts["num_heads"], "num_exp_enc_list": tuple(facts["num_exp_enc_list"])}
            cfg = config_of(found, said)
            assert (cfg.model_dim, cfg.is_end_to_end) == (sizes["d_model"], True)
            for key in ("N_enc", "N_dec", "ff", "num_exp_dec", "max_seq_len", "vocab_size"):
                assert getattr(cfg, key) == sizes[key]
