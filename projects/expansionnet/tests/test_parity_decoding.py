"""Searches and samples against the original's: tokens, log-probabilities, order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.benches.decode_reference import beam_search_plain
from expansionnet.decoding import Captions, beam_search, sample
from expansionnet.model import ExpansionNet
from testing.parity import Folder, of_kind

from .recorded import load_model, visual

SAME_DRAWS = (2, 15)
"""Version of torch whose random numbers were recorded; those of others may differ."""


def allowed(folder: Folder) -> float:
    """How far a log-probability may be off."""
    return folder.tolerance["beam_logprobs" if folder.kind == "e2e_tiny" else "logprobs"]


def assert_recorded(folder: Folder, found: Captions, case: dict[str, Any]) -> None:
    assert found.tokens == case["tokens"]
    recorded = torch.tensor(case["logprobs"])
    torch.testing.assert_close(found.log_probs, recorded, atol=allowed(folder), rtol=0)
    if "mean_logprob" in case:
        means = torch.tensor(case["mean_logprob"], dtype=torch.float64)
        torch.testing.assert_close(found.mean_log_prob, means, atol=allowed(folder), rtol=0)


def searched(case: dict[str, Any]) -> dict[str, int]:
    """Arguments of a recorded beam search."""
    names = {"beam_size": "beam_size", "beam_max_seq_len": "max_len", "how_many_outputs": "outputs"}
    return {ours: case[theirs] for theirs, ours in names.items()}


@pytest.mark.parity
@of_kind("decoding", "e2e_tiny")
def test_beams_agree(folder: Folder) -> None:
    model, x, recorded = load_model(folder), visual(folder), folder.json("beam.json")
    symbols = {name: recorded[name] for name in ("sos", "eos")}
    assert recorded["beam"]
    for case in recorded["beam"]:
        assert_recorded(folder, beam_search(model, x, **symbols, **searched(case)), case)


@pytest.mark.parity
@of_kind("decoding")
def test_beams_agree_where_visual_tokens_are_padded(folder: Folder) -> None:
    model, x, recorded = load_model(folder), visual(folder), folder.json("beam.json")
    if "beam_with_encoder_pads" not in recorded:
        pytest.skip(f"{folder.path} has no searches with padded visual tokens")
    symbols = {name: recorded[name] for name in ("sos", "eos")}
    padded = recorded["beam_with_encoder_pads"]
    for case in padded["results"]:
        pads = torch.tensor(padded["pads"])
        assert_recorded(folder, beam_search(model, x, enc_pads=pads, **symbols, **searched(case)), case)


@pytest.mark.parity
@of_kind("decoding")
def test_the_plain_way_of_the_benchmark_is_the_original_s(folder: Folder) -> None:
    model, x, recorded = load_model(folder), visual(folder), folder.json("beam.json")
    symbols = {name: recorded[name] for name in ("sos", "eos")}
    padded = recorded.get("beam_with_encoder_pads", {"results": [], "pads": None})
    cases = [(case, None) for case in recorded["beam"]]
    cases += [(case, padded["pads"]) for case in padded["results"]]
    with torch.no_grad():
        for case, pads in cases:
            found = beam_search_plain(model, x, enc_pads=pads, **symbols, **searched(case))
            assert_recorded(folder, found, case)


def samples(folder: Folder) -> dict[str, Any]:
    """Recorded random sampling of the folder."""
    if folder.kind == "e2e_tiny":
        recorded = folder.json("beam.json")
        if "sampling" not in recorded:
            pytest.skip(f"{folder.path} has no samples")
        return recorded["sampling"]
    return folder.json("sampling.json")


def sampled(folder: Folder, model: ExpansionNet, case: dict[str, Any], **how: Any) -> Captions:
    symbols = {name: folder.json("beam.json")[name] for name in ("sos", "eos")}
    steps = case["sample_max_seq_len"] if "sample_max_seq_len" in case else case["beam_max_seq_len"] - 1
    count = case["how_many_outputs"]
    return sample(model, visual(folder), samples=count, max_len=steps, **symbols, **how)


def forced(folder: Folder, model: ExpansionNet, case: dict[str, Any], **how: Any) -> Captions:
    """The recorded captions with our log-probabilities."""
    rows = [tokens[1:] for image in case["tokens"] for tokens in image]
    place = iter(range(max(map(len, rows))))

    def draw(probabilities: Tensor, present: Tensor) -> Tensor:
        at = next(place)
        # A row that has ended is fed anything.
        return torch.tensor([rows[i][at] if at < len(rows[i]) else 0 for i in present.tolist()])

    return sampled(folder, model, case, draw=draw, **how)


@pytest.mark.parity
@of_kind("decoding", "e2e_tiny")
@pytest.mark.parametrize("incremental", [True, False])
def test_log_probs_of_recorded_samples_agree(folder: Folder, incremental: bool) -> None:
    case = samples(folder)
    assert_recorded(folder, forced(folder, load_model(folder), case, incremental=incremental), case)


@pytest.mark.parity
@of_kind("decoding")
def test_log_probs_of_recorded_stochastic_beams_agree(folder: Folder) -> None:
    case = samples(folder).get("stochastic_beam")
    if case is None:
        pytest.skip(f"{folder.path} has no stochastic beams")
    assert_recorded(folder, forced(folder, load_model(folder), case), case)


needs_recorded_draws = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) != SAME_DRAWS,
    reason="random numbers were recorded with another version of torch",
)


@pytest.mark.parity
@needs_recorded_draws
@of_kind("decoding", "e2e_tiny")
def test_samples_are_those_that_the_original_draws_from_the_same_seed(folder: Folder) -> None:
    case, model = samples(folder), load_model(folder)
    torch.manual_seed(case["seed"])
    assert_recorded(folder, sampled(folder, model, case), case)


@pytest.mark.parity
@needs_recorded_draws
@of_kind("decoding")
def test_stochastic_beams_are_those_of_the_same_seed(folder: Folder) -> None:
    case, model, recorded = (
        samples(folder).get("stochastic_beam"),
        load_model(folder),
        folder.json("beam.json"),
    )
    if case is None:
        pytest.skip(f"{folder.path} has no stochastic beams")
    symbols = {name: recorded[name] for name in ("sos", "eos")}
    generator = torch.Generator().manual_seed(case["seed"])
    found = beam_search(model, visual(folder), sample=True, generator=generator, **symbols, **searched(case))
    assert_recorded(folder, found, case)
