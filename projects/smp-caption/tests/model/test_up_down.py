"""The Up-Down captioner against the plain way of computing it, and its edges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.decode import DecodeOptions, decode
from prunelab.decode.reference import beam_search_plain
from prunelab.errors import UserError
from prunelab.mask import MaskSpec, draw_once, freeze, masks
from prunelab.mask import layers as mask_layers
from smp_caption.model import Inputs, UpDown, build
from smp_caption.model.reference import begin_plain, step_plain, teach_plain

from ..toy import TOY, pictures

OPTIONS = DecodeOptions(max_length=6, beam_size=3)


def model_with(**changes: Any) -> UpDown:
    torch.manual_seed(1)
    return build(replace(TOY, **changes))


def batch(captions: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three images of 4, 2 and 3 regions in rows of 5, and their captions."""
    att, mask, fc = pictures(4, 2, 3).values()
    seqs = torch.randint(4, TOY.vocab_size, (3 * captions, 6), generator=torch.Generator().manual_seed(2))
    seqs[:, 0], seqs[0, 3:], seqs[1, 5:] = 2, 0, 0
    return att, mask, fc, seqs


VARIANTS: list[dict[str, Any]] = [
    {},
    {"use_bn": 1},
    {"use_bn": 2},
    {"logit_layers": 3},
    {"caption_model": "up_down_lstm_prune"},
    {"caption_model": "up_down_lstm_prune", "use_bn": 2, "logit_layers": 2},
]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_teacher_forcing_equals_the_plain_way_with_its_gradients(
    changes: dict[str, Any], training: bool
) -> None:
    model, inputs = model_with(**changes).train(training), batch()
    gradients = []
    for way in (
        lambda: model(Inputs(*inputs[:3]), inputs[3], last_column=True),
        lambda: teach_plain(model, *inputs),
    ):
        model.zero_grad()
        torch.manual_seed(3)
        with draw_once(model):
            torch.manual_seed(4)
            for mask in masks(model).values():
                mask.data.fill_(9.0)  # samples that do not depend on the order of the draws
            found = way()
            (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
        gradients.append((found.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-5, rtol=0)
    for ours, plain in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS)
def test_beams_equal_those_of_the_plain_way(changes: dict[str, Any]) -> None:
    model, (att, mask, fc, _) = model_with(**changes).eval(), batch()
    with torch.inference_mode():
        ours = decode(model.step, model.begin(Inputs(att, mask, fc)), OPTIONS)
        plain = beam_search_plain(
            lambda tokens, state: step_plain(model, tokens, state), begin_plain(model, att, mask, fc), OPTIONS
        )
    assert torch.equal(ours.tokens, plain.tokens)
    torch.testing.assert_close(ours.scores, plain.scores, atol=1e-4, rtol=0)


def test_decoding_steps_give_the_log_probs_of_teacher_forcing() -> None:
    model, (att, mask, fc, seqs) = model_with().eval(), batch()
    taught = model(Inputs(att, mask, fc), seqs, last_column=True)
    state = model.begin(Inputs(att, mask, fc)).expand(2)
    for column in range(seqs.shape[1]):
        log_probs, state = model.step(seqs[:, column], state)
        torch.testing.assert_close(log_probs, taught[:, column])


@pytest.mark.parametrize("changes", VARIANTS)
def test_names_follow_the_options(changes: dict[str, Any]) -> None:
    cfg, names = replace(TOY, **changes), list(model_with(**changes).state_dict())
    first = 1 if cfg.use_bn else 0
    assert f"att_embed.{first}.weight" in names
    assert ("att_embed.0.running_mean" in names) == bool(cfg.use_bn)
    assert ("att_embed.4.running_mean" in names) == (cfg.use_bn == 2)
    last = "logit" if cfg.logit_layers == 1 else f"logit.{3 * (cfg.logit_layers - 1)}"
    assert f"{last}.weight" in names


def test_one_draw_a_step_calls_each_mask_once_and_otherwise_each_time_step_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = model_with(caption_model="up_down_lstm_prune").train(), batch()
    drawn = []
    original = mask_layers.sample_mask
    monkeypatch.setattr(mask_layers, "sample_mask", lambda m: drawn.append(m.shape) or original(m))
    with draw_once(model):
        model(Inputs(*inputs[:3]), inputs[3])
    assert len(drawn) == len(masks(model)) == 11
    drawn.clear()
    model(Inputs(*inputs[:3]), inputs[3])
    columns = inputs[3].shape[1] - 1
    # fc_embed, att_embed and ctx2att are called once; the words' rows are drawn for all columns at once
    assert len(drawn) == 3 + 1 + columns * (11 - 4)
    assert drawn[3] == (
        len(torch.unique(inputs[3][:, :-1] + 100 * torch.arange(columns))),
        TOY.input_encoding_size,
    )
    drawn.clear()
    state = model.begin(Inputs(*inputs[:3]))
    model.step(torch.full((3,), 2), state)
    assert len(drawn) == 3 + 8
    drawn.clear()
    model.eval()(Inputs(*inputs[:3]), inputs[3])
    assert not drawn


def test_frozen_masks_do_not_hide_that_others_are_drawn() -> None:
    model, inputs = model_with(caption_model="up_down_lstm_prune").train(), batch()
    freeze(model, ("core.", "logit", "fc", "att", "ctx"))
    with torch.no_grad():
        masks(model)["embed.0.weight_pruning_mask"].zero_()
    assert not torch.equal(model(Inputs(*inputs[:3]), inputs[3]), model(Inputs(*inputs[:3]), inputs[3]))


def test_features_without_padding_need_no_mask() -> None:
    model, (att, _, fc, seqs) = model_with().eval(), batch()
    assert torch.equal(model(Inputs(att, None, fc), seqs), model(Inputs(att, torch.ones(3, 5), fc), seqs))


def test_padding_regions_change_nothing() -> None:
    model, (att, mask, fc, seqs) = model_with().eval(), batch()
    expected = model(Inputs(att, mask, fc), seqs)
    noisy = att + 100 * (1 - mask)[:, :, None]
    wider = torch.cat([noisy, torch.full((3, 4, 7), 9.0)], dim=1)
    found = model(Inputs(wider, torch.cat([mask, torch.zeros(3, 4)], dim=1), fc), seqs)
    torch.testing.assert_close(found, expected)


def test_columns_of_padding_are_not_computed() -> None:
    model, (att, mask, fc, seqs) = model_with().eval(), batch()
    seqs = torch.cat([seqs, torch.zeros(6, 3).long()], dim=1)
    found = model(Inputs(att, mask, fc), seqs)
    assert found.shape == (6, 8, TOY.vocab_size)
    assert bool((found[:, :6] != 0).all())
    assert not found[:, 6:].any()
    assert torch.equal(found, teach_plain(model, att, mask, fc, seqs)[:, :-1]) or torch.allclose(
        found, teach_plain(model, att, mask, fc, seqs)[:, :-1], atol=1e-5
    )


def test_captions_that_images_do_not_divide_and_wrong_features_are_refused() -> None:
    model, (att, mask, fc, seqs) = model_with(), batch()
    with pytest.raises(UserError, match="5 captions for 3 images: expected a multiple"):
        model(Inputs(att, mask, fc), seqs[:5])
    with pytest.raises(UserError, match=r"2 numbers each: expected 7 \(att_feat_size\)"):
        model(Inputs(att[..., :2], mask, fc), seqs)
    with pytest.raises(UserError, match=r"2 numbers each: expected 3 \(fc_feat_size\)"):
        model(Inputs(att, mask, fc[..., :2]), seqs)


def test_build_refuses_what_is_not_there() -> None:
    with pytest.raises(UserError, match="has no masks"):
        build(TOY, MaskSpec())


def test_dropout_acts_in_training_only() -> None:
    model, inputs = model_with(drop_prob_lm=0.5), batch()
    assert not torch.equal(
        model.train()(Inputs(*inputs[:3]), inputs[3]), model(Inputs(*inputs[:3]), inputs[3])
    )
    assert torch.equal(model.eval()(Inputs(*inputs[:3]), inputs[3]), model(Inputs(*inputs[:3]), inputs[3]))
