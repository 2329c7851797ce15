"""Several models on one caption."""

from __future__ import annotations

import pytest
import torch

from prunelab.decode import DecodeOptions, decode, ensemble
from prunelab.errors import UserError

from .toy import BOS, EOS, table_model

OPTIONS = DecodeOptions(max_length=6, bos=BOS, eos=EOS, beam_size=3)


@pytest.mark.parametrize("average", ["probs", "log_probs"])
def test_ensemble_of_one_is_the_model_itself(average: str) -> None:
    step, state = table_model(1, images=3)
    alone, joint = decode(step, state, OPTIONS), decode(*ensemble([step], [state], average), OPTIONS)  # type: ignore[arg-type]
    assert torch.equal(alone.tokens, joint.tokens)
    assert torch.equal(alone.scores, joint.scores)


@pytest.mark.parametrize("average", ["probs", "log_probs"])
def test_ensemble_of_equal_models_decodes_as_one(average: str) -> None:
    step, state = table_model(2, images=3)
    alone = decode(step, state, OPTIONS)
    joint = decode(*ensemble([step] * 3, [state] * 3, average), OPTIONS)  # type: ignore[arg-type]
    assert torch.equal(alone.tokens, joint.tokens)
    assert torch.allclose(alone.scores, joint.scores, atol=1e-5)


def test_averages_are_the_arithmetic_and_the_geometric_mean() -> None:
    models = [table_model(seed, images=2) for seed in (3, 4)]
    steps, states = [m[0] for m in models], [m[1] for m in models]
    fed = torch.full((2,), BOS)
    each = torch.stack([step(fed, state)[0].double().exp() for step, state in models])
    joint, state = ensemble(steps, states, "probs")
    assert torch.allclose(joint(fed, state)[0].double().exp(), each.mean(0), atol=1e-6)
    joint, state = ensemble(steps, states, "log_probs")
    geometric = each.log().mean(0).exp()
    expected = geometric / geometric.sum(-1, keepdim=True)
    assert torch.allclose(joint(fed, state)[0].double().exp(), expected, atol=1e-6)


def test_ensemble_is_searched_in_batches_as_one_by_one() -> None:
    models = [table_model(seed, images=4, eos_bonus=2.0) for seed in (5, 6, 7)]
    steps, states = [m[0] for m in models], [m[1] for m in models]
    together = decode(*ensemble(steps, states), OPTIONS)
    for image in range(4):
        index = torch.tensor([image])
        alone = [state.select_images(index).select_rows(index) for state in states]
        assert torch.equal(decode(*ensemble(steps, alone), OPTIONS).tokens[0], together.tokens[image])


def test_wrong_ensembles_are_refused() -> None:
    step, state = table_model(0)
    with pytest.raises(UserError, match="expected equal numbers"):
        ensemble([step], [state, state])
    with pytest.raises(UserError, match="expected equal numbers"):
        ensemble([], [])
    with pytest.raises(UserError, match="'median' is unknown: expected 'probs' or 'log_probs'"):
        ensemble([step], [state], "median")  # type: ignore[arg-type]
