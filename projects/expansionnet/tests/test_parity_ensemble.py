"""Ensembles against the original's: mean probabilities and beams."""

from __future__ import annotations

import pytest
import torch

from expansionnet.decoding import beam_search
from expansionnet.ensemble import Ensemble
from testing.parity import Folder, of_kind

from .recorded import load_model, visual


def members(folder: Folder) -> Ensemble:
    return Ensemble(models=[load_model(folder, name) for name in folder.facts["members"]])


@pytest.mark.parity
@of_kind("ensemble")
def test_mean_probabilities_agree(folder: Folder) -> None:
    io = folder.arrays("io.npz")
    found = members(folder).log_probs(visual(folder), io["dec_x"])
    torch.testing.assert_close(found, io["avg_logprobs"], atol=folder.tolerance["avg_logprobs"], rtol=0)


@pytest.mark.parity
@of_kind("ensemble")
def test_beams_agree(folder: Folder) -> None:
    recorded, model, x = folder.json("beam.json"), members(folder), visual(folder)
    assert recorded["beam"]
    for case in recorded["beam"]:
        found = beam_search(
            model,
            x,
            beam_size=case["beam_size"],
            max_len=case["beam_max_seq_len"],
            outputs=case["how_many_outputs"],
            sos=recorded["sos"],
            eos=recorded["eos"],
        )
        assert found.tokens == case["tokens"]
        for ours, theirs in ((found.log_probs, "logprobs"), (found.mean_log_prob, "mean_logprob")):
            wanted = torch.tensor(case[theirs], dtype=ours.dtype)
            torch.testing.assert_close(ours, wanted, atol=folder.tolerance["logprobs"], rtol=0)
