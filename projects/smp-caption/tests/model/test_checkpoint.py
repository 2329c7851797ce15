"""Loading state dicts of the original's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunelab.errors import UserError
from prunelab.mask import masks
from smp_caption.files.original_states import binary_mask_state, pruned_state, sparse_state
from smp_caption.model import UpDown, build
from smp_caption.model.checkpoint import load_original, own_state

from ..made import made
from ..toy import TOY


def dense() -> UpDown:
    return build(TOY)


def pruned(seed: int = 0) -> UpDown:
    torch.manual_seed(seed)
    model = build(replace(TOY, caption_model="up_down_lstm_prune"))
    with torch.no_grad():
        for mask in masks(model).values():
            mask.copy_(torch.randn(mask.shape))
    return model


def test_state_dict_of_the_same_model_loads_exactly() -> None:
    source, target = pruned(1), pruned(2)
    target.load_original(source.state_dict())
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_sparse_and_half_precision_files_load() -> None:
    state = sparse_state(pruned())
    for cast in (lambda x: x, lambda x: x.half()):
        model = dense()
        model.load_original({name: cast(value) for name, value in state.items()})
        for name, value in pruned_state(pruned()).items():
            torch.testing.assert_close(model.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_dense_weights_go_into_a_masked_model_only_on_request() -> None:
    state, model = dense().state_dict(), pruned()
    before = {name: mask.detach().clone() for name, mask in masks(model).items()}
    with pytest.raises(UserError, match="it holds no masks: load it into the dense model"):
        model.load_original(state)
    load_original(model, state, masks_optional=True)
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value)
    assert all(torch.equal(mask, before[name]) for name, mask in masks(model).items())


def test_masks_do_not_fit_a_dense_model() -> None:
    message = (
        r"last\.pth does not fit .*expected absent.* and 8 more; it holds masks: load it into the _prune"
    )
    with pytest.raises(UserError, match=message):
        dense().load_original(binary_mask_state(pruned()), "last.pth")


def test_first_differences_are_named_with_their_shapes() -> None:
    state = dict(dense().state_dict())
    state["logit.weight"] = torch.zeros(7, 8)
    state["extra"] = torch.zeros(())
    del state["ctx2att.bias"]
    with pytest.raises(UserError) as caught:
        dense().load_original(state, "best.pth")
    assert str(caught.value) == (
        "best.pth does not fit the model: logit.weight 7x8 (expected 11x8), "
        "ctx2att.bias absent (expected 5), extra scalar (expected absent)"
    )


def test_nothing_is_loaded_when_something_differs() -> None:
    model = dense()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    del state["logit.bias"]
    with pytest.raises(UserError):
        model.load_original(state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_without_masks_have_no_pruned_export() -> None:
    for export in (pruned_state, sparse_state, binary_mask_state):
        with pytest.raises(UserError, match="UpDown has no masks"):
            export(dense())


def test_a_shared_layer_has_its_tensors_under_each_of_its_names(tmp_path: Path) -> None:
    source, target = (made(tmp_path, "acort", seed=seed).model for seed in (0, 1))
    state = source.state_dict()
    first, again = (state[f"model.decoder.layers.{place}.feed_forward.w_1.weight"] for place in (0, 1))
    assert torch.equal(first, again)
    target.load_original(state)
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
    del state["model.decoder.layers.1.feed_forward.w_1.weight"]
    with pytest.raises(UserError, match=r"model.decoder.layers.1.feed_forward.w_1.weight absent"):
        target.load_original(state)


def test_layers_of_their_own_do_not_go_into_a_shared_one(tmp_path: Path) -> None:
    own = made(tmp_path, "acort", share_layer_encoder=None, share_layer_decoder=(0, 1, 2)).model.state_dict()
    shared = made(tmp_path, "acort", seed=1).model
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    with pytest.raises(UserError, match=r"best.pth does not fit the model: model.encoder.layers.0.\S+ and "):
        shared.load_original(own, "best.pth")
    assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())
    apart = made(tmp_path, "acort", seed=2, share_layer_encoder=None, share_layer_decoder=(0, 1, 2)).model
    apart.load_original(before)
    assert all(torch.equal(value, before[name]) for name, value in apart.state_dict().items())


@pytest.mark.parametrize("family", ["up_down", "transformer", "ort"])
def test_another_vocabulary_is_one_line_with_both_sizes(family: str, tmp_path: Path) -> None:
    state = made(tmp_path, family, vocab_size=31).model.state_dict()
    with pytest.raises(UserError) as caught:
        made(tmp_path, family, vocab_size=24).model.load_original(state, "best.pth")
    said = "best.pth has a vocabulary of 31 tokens, the model one of 24 (vocab_size)"
    assert str(caught.value) == said


def test_what_a_network_computes_itself_need_not_be_kept(tmp_path: Path) -> None:
    model = made(tmp_path, "transformer").model
    kept = own_state(model.state_dict())
    assert set(model.state_dict()) - set(kept) == {"core.tgt_embed.1.pe"}
    other = made(tmp_path, "transformer", seed=1).model
    other.load_original(kept)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
