"""Exported graphs against the original's network, and ours with other epsilons against its second copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from expansionnet.captioner import Captioner
from expansionnet.export import export_onnx
from expansionnet.files.onnx_beam import OnnxCaptioner
from expansionnet.model import ExpansionNet, build, cached
from expansionnet.words.vocabulary import Vocabulary
from prunelab.decode import State, StepFunction
from testing.parity import Folder, of_kind

from .recorded import beside, checkpoint_of, load_model, model_config, model_facts

# B pictures, L words

Pick = Callable[[int, Tensor], Tensor]
"""Place and log-probabilities (B, V) of the next word to the word (B,)."""


def images(folder: Folder) -> Tensor:
    """The recorded pictures, as many as have recorded captions."""
    with np.load(beside(folder, folder.facts["images"])) as archive:
        return torch.from_numpy(archive["images"])[: len(folder.json("expected.json")["pred"])]


@torch.no_grad()
def walk(folder: Folder, step: StepFunction, state: State, pick: Pick) -> tuple[Tensor, Tensor]:
    """Captions (B, L), start included, and the log-probabilities of their words, 0 for the start."""
    tokens = [torch.full((state.size[0],), folder.facts["sos"])]
    logs = [torch.zeros(state.size[0])]
    for place in range(folder.facts["max_decode_steps"]):
        log_probs, state = step(tokens[-1], state)
        tokens.append(pick(place + 1, log_probs))
        logs.append(log_probs.gather(1, tokens[-1][:, None])[:, 0])
    return torch.stack(tokens, 1), torch.stack(logs, 1)


def assert_near(found: Tensor, expected: list[list[float]], tolerance: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=tolerance)


def copy_of(folder: Folder) -> ExpansionNet:
    """Our network with the epsilons of the original's copy, which its outer norms have not."""
    facts = folder.facts
    cfg = replace(
        model_config(model_facts(folder)),
        layer_norm_eps=facts["layer_norm_eps"],
        expansion_eps=facts["expansion_eps"],
    )
    model = build(cfg, fresh=False)
    model.load_original(checkpoint_of(folder))
    for norm in (model.enc_reduce_norm, model.dec_reduce_norm):
        norm.eps = facts["reduce_norm_eps"]
    return model.eval()


@pytest.mark.parity
@of_kind("onnx_copy")
def test_the_copys_captions_come_out_with_its_epsilons(folder: Folder) -> None:
    assert not folder.facts["stops_at_eos"]
    expected, model = folder.json("expected.json"), copy_of(folder)
    with torch.no_grad():
        state = cached.begin(model, model.encode(images(folder)))
    tokens, logs = walk(folder, cached.stepper(model), state, lambda _, log_probs: log_probs.argmax(1))
    assert tokens.tolist() == expected["pred"]
    assert_near(logs, expected["logprobs"], folder.tolerance["logprobs"])


@pytest.mark.parity
@of_kind("onnx_copy")
def test_exported_graphs_give_the_networks_log_probabilities(folder: Folder, tmp_path: Path) -> None:
    expected = folder.json("expected.json")
    words = Vocabulary(words=tuple(model_facts(folder)["idx2word"]))
    captioner = Captioner(model=load_model(folder), vocabulary=words)
    reports = export_onnx(captioner, tmp_path)
    assert max(report.difference for report in reports) <= folder.tolerance["pytorch_logprobs"]
    exported, forced = OnnxCaptioner(tmp_path, threads=1), torch.tensor(expected["pred"])
    _, logs = walk(
        folder, exported.graphs.step, exported.begin(images(folder)), lambda place, _: forced[:, place]
    )
    recorded = expected["pytorch_model_logprobs_for_same_tokens"]
    assert_near(logs, recorded, folder.tolerance["pytorch_logprobs"])
