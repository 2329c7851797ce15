"""The captioner as a whole: sizes, initialisation, loading, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from expansionnet.config import ModelConfig, SwinConfig
from expansionnet.model import ExpansionNet, build
from expansionnet.model.body import split_backbone
from expansionnet.model.swin import from_official, load_backbone
from prunelab.errors import UserError

SWIN = SwinConfig(
    img_size=16, patch_size=2, embed_dim=4, depths=(2, 2), num_heads=(1, 2), window_size=4, mlp_ratio=2.0
)
TINY = ModelConfig(
    is_end_to_end=False,
    model_dim=8,
    N_enc=2,
    N_dec=2,
    ff=12,
    num_heads=2,
    num_exp_enc_list=(2, 3),
    num_exp_dec=3,
    img_feature_dim=8,
    vocab_size=11,
    max_seq_len=6,
    swin=SWIN,
)
WHOLE = replace(TINY, is_end_to_end=True)


def on_meta(cfg: ModelConfig) -> ExpansionNet:
    with torch.device("meta"):
        return build(cfg)


@pytest.mark.parametrize(("whole", "expected"), [(False, 38_604_560), (True, 233_803_076)])
def test_the_published_model_has_its_number_of_parameters(whole: bool, expected: int) -> None:
    model = on_meta(ModelConfig(is_end_to_end=whole, vocab_size=10_000, max_seq_len=74))
    assert sum(p.numel() for p in model.parameters()) == expected
    assert all(p.is_meta for p in model.parameters())


def test_the_published_backbone_has_its_constants() -> None:
    model = on_meta(ModelConfig(vocab_size=10_000, max_seq_len=74))
    _, backbone = split_backbone(model.original_state())
    assert len(backbone) == 362
    masks = [name for name in backbone if name.endswith(".attn_mask")]
    blocks = [(0, 1), (1, 1), *((2, i) for i in range(1, 18, 2))]
    assert masks == [f"layers.{stage}.blocks.{block}.attn_mask" for stage, block in blocks]
    assert backbone["layers.0.blocks.1.attn_mask"].shape == (64, 144, 144)


def test_new_weights_are_as_the_original_draws_them() -> None:
    torch.manual_seed(0)
    model = build(WHOLE)
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.LayerNorm):
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif parameter.dim() > 1:
            receptive = parameter[0, 0].numel()
            bound = (6 / (sum(parameter.shape[:2]) * receptive)) ** 0.5
            assert 0 < parameter.abs().max() <= bound, name
        elif name.startswith("swin_transf") and isinstance(module, nn.Linear):
            assert not parameter.any(), name
        else:
            assert isinstance(module, nn.Linear | nn.Conv2d)
            assert 0 < parameter.abs().max() <= module.weight[0].numel() ** -0.5, name


def test_equal_seeds_draw_equal_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(4)
        states.append(build(WHOLE).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_weights_go_out_and_in_under_the_originals_names() -> None:
    model, other = build(WHOLE), build(WHOLE, fresh=False)
    state = {**model.original_state(), "dummy_linear.weight": torch.zeros(1, 1)}
    assert "swin_transf.layers.0.downsample.reduction.weight" in state
    other.load_original(state)
    assert all(torch.equal(v, other.original_state()[name]) for name, v in model.original_state().items())
    images, tokens = torch.randn(2, 3, 16, 16), torch.randint(11, (2, 4))
    with torch.no_grad():
        assert torch.equal(model.eval()(images, tokens), other.eval()(images, tokens))


def test_weights_of_another_model_are_refused_with_names_and_shapes() -> None:
    state = build(replace(TINY, vocab_size=12)).original_state()
    with pytest.raises(UserError, match=r"^x\.pth: .*vocab_linear\.weight 12x8 in the file and 11x8 in the"):
        build(TINY).load_original(state, where="x.pth")
    with pytest.raises(UserError, match=r"missing: swin_transf\.patch_embed"):
        build(WHOLE).load_original(build(TINY).original_state(), where="x.pth")


def test_a_backbone_ignores_a_head_and_misses_nothing_else() -> None:
    model = build(WHOLE)
    _, state = split_backbone(model.original_state())
    load_backbone(model.swin_transf, {**state, "head.weight": torch.zeros(5, 8)}, "b.pth")
    del state["norm.bias"]
    with pytest.raises(UserError, match=r"^b\.pth: .*1 missing: norm\.bias"):
        load_backbone(model.swin_transf, state, "b.pth")
    with pytest.raises(UserError, match=r"^b\.pth: no weights"):
        load_backbone(model.swin_transf, {}, "b.pth")


def test_timms_own_names_are_told_from_the_official_ones() -> None:
    timm = {"layers.1.downsample.norm.weight": torch.zeros(1), "head.fc.weight": torch.zeros(1)}
    assert from_official(timm).keys() == {"layers.1.downsample.norm.weight"}


def test_features_of_half_precision_are_read() -> None:
    model, tokens = build(TINY).eval(), torch.randint(11, (2, 4))
    features = torch.randn(2, 5, 8).half()
    assert torch.equal(model(features, tokens), model(features.float(), tokens))


def test_pads_of_zero_are_no_pads() -> None:
    model, none = build(TINY).eval(), torch.zeros(2, dtype=torch.int64)
    x, tokens = torch.randn(2, 5, 8), torch.randint(11, (2, 4))
    torch.testing.assert_close(model(x, tokens, none, none), model(x, tokens))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 0, expected at least 1"):
        build(replace(TINY, vocab_size=0))
    with pytest.raises(ValueError, match="7 words, expected at most the model's 6"):
        build(TINY)(torch.randn(1, 5, 8), torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"pads are \[0, 1\], expected none"):
        build(WHOLE).encode(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
