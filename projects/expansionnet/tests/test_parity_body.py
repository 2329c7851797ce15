"""The body and its blocks against recorded outputs of the original, with and without padding."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from expansionnet.model.layers import DecoderLayer, EncoderLayer
from expansionnet.model.masks import causal_mask, pad_mask, visible
from testing.parity import Folder, of_kind

from .recorded import load_model

LOGITS = ("logits", "log_softmax")


def assert_agree(folder: Folder, found: dict[str, Tensor]) -> None:
    """Compare each output with the recorded one of its name."""
    recorded = folder.arrays("io.npz")
    for name, value in found.items():
        kind = "logits" if name.startswith(LOGITS) else "other"
        torch.testing.assert_close(
            value.detach(),
            recorded[name],
            atol=folder.tolerance[kind],
            rtol=0,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parity
@of_kind("body_forward")
@pytest.mark.parametrize("grad", [False, True], ids=["without gradients", "with gradients"])
def test_encoder_and_logits_agree(folder: Folder, grad: bool) -> None:
    model, io = load_model(folder), folder.arrays("io.npz")
    x, tokens, pads, words = io["enc_x"], io["dec_x"], io["enc_pads"], io["dec_pads"]
    with torch.set_grad_enabled(grad):
        logits = model(x, tokens)
        found = {
            "enc_out": model.encode(x),
            "enc_out_padded": model.encode(x, pads),
            "enc_out_fp16_input": model.encode(x.half()),
            "logits": logits,
            "log_softmax": torch.log_softmax(logits, dim=-1),
            "logits_padded": model(x, tokens, pads, words),
        }
    assert_agree(folder, found)


@pytest.mark.parity
@of_kind("body_forward")
@pytest.mark.parametrize("grad", [False, True], ids=["without gradients", "with gradients"])
def test_blocks_agree(folder: Folder, grad: bool) -> None:
    model, io = load_model(folder), folder.arrays("io.npz")
    encoder, decoder = cast(EncoderLayer, model.encoders[0]), cast(DecoderLayer, model.decoders[0])
    x, y, pads, words = io["static_in"], io["dynamic_in"], io["enc_pads"], io["dec_pads"]
    length, tokens = y.shape[1], x.shape[1]
    causal, cross = causal_mask(length, words), pad_mask(length, tokens, words, pads)
    with torch.set_grad_enabled(grad):
        found = {
            "static_out": encoder.stc_exp(x),
            "static_out_padded": encoder.stc_exp(x, visible(tokens, pads)),
            "enc_layer0_out": encoder(x),
            "dynamic_out": decoder.dyn_exp(y, causal_mask(length)),
            "dynamic_out_padded": decoder.dyn_exp(y, causal),
            "mha_out_padded": decoder.mha(y, x, cross),
            "dec_layer0_out_padded": decoder(y, x, causal, cross),
        }
    assert_agree(folder, found)


@pytest.mark.parity
@of_kind("body_forward")
def test_masks_of_the_recorded_pads_are_the_originals(folder: Folder) -> None:
    io = folder.arrays("io.npz")
    pads, words = io["enc_pads"], io["dec_pads"]
    length, tokens = io["dec_x"].shape[1], io["enc_x"].shape[1]
    made = {
        "mask_static": pad_mask(io["mask_static"].shape[1], tokens, column_pads=pads),
        "mask_self": causal_mask(length, words),
        "mask_cross": pad_mask(length, tokens, words, pads),
    }
    for name, mask in made.items():
        assert mask is not None
        assert torch.equal(mask.expand(io[name].shape), io[name].bool()), name
