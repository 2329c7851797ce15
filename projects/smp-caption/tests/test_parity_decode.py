"""Captions decoded by the models against those recorded from the original system."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunelab.decode import Decoded, decode
from prunelab.errors import UserError
from smp_caption.model import Network
from smp_caption.model.decoding import options_of
from testing.parity import Folder, of_kind

from .parity_models import DENSE, PRUNED, assert_within, image_of, images, inputs_of, model_of, recorded_model


def decoded(folder: Folder, model: Network, opt: dict[str, Any], *, original: bool) -> Decoded:
    with torch.inference_mode():
        state = model.begin(images(inputs_of(folder)))
        return decode(model.step, state, options_of(model.cfg, opt, original=original))


def assert_recorded(folder: Folder, model: Network, entries: list[dict[str, Any]], *, original: bool) -> None:
    """Every entry: tokens exactly, log-probabilities and scores within tolerance; what failed there is
    refused."""
    assert entries
    for entry in entries:
        if "error" in entry:
            with pytest.raises(UserError, match="expected"):
                decoded(folder, model, entry["opt"], original=original)
            continue
        found = decoded(folder, model, entry["opt"], original=original)
        assert found.tokens.tolist() == entry["seq"], entry["opt"]
        bound = folder.tolerance["scores"]
        assert_within(found.log_probs, torch.tensor(entry["seq_logprobs"]), bound, str(entry["opt"]))
        if "scores" in entry:
            expected = torch.tensor(entry["scores"], dtype=torch.float64)
            assert_within(found.scores, expected, bound, str(entry["opt"]))


@pytest.mark.parity
@of_kind("dense", "pruned", caption_model=(DENSE, PRUNED))
def test_captions_of_every_option_are_the_recorded_ones(folder: Folder) -> None:
    entries = folder.json("decode.json")
    assert_recorded(folder, recorded_model(folder), entries, original=True)


@pytest.mark.parity
@of_kind("dense", "pruned", caption_model=(DENSE, PRUNED))
def test_diverse_beams_of_the_fixed_preset_are_the_recorded_ones(folder: Folder) -> None:
    entries = folder.json("decode_fixed.json")
    assert_recorded(folder, recorded_model(folder), entries, original=False)


@pytest.mark.parity
@of_kind("pruned", caption_model=PRUNED)
def test_sparse_export_in_the_dense_class_decodes_the_recorded_captions(folder: Folder) -> None:
    model = model_of(folder, dense_class=True)
    model.load_original(folder.weights("*_pruned_sparse.pth"))
    assert_recorded(folder, model, folder.json("decode_dense_class.json"), original=True)


@pytest.mark.parity
@of_kind("dense", "pruned", caption_model=(DENSE, PRUNED))
def test_images_one_by_one_give_the_captions_of_the_batch(folder: Folder) -> None:
    model, batch = recorded_model(folder), inputs_of(folder)
    for opt in ({}, {"beam_size": 3}):
        together = decoded(folder, model, opt, original=False)
        for place in range(len(batch["att_feats"])):
            with torch.inference_mode():
                state = model.begin(image_of(batch, place))
                alone = decode(model.step, state, options_of(model.cfg, opt))
            assert torch.equal(alone.tokens[0], together.tokens[place])
