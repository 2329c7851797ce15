"""Decoding step by step with attention caches: exact, mixed and none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from prunelab import onednn
from prunelab.decode import Decoded, State, decode
from prunelab.decode.reference import beam_search_plain
from prunelab.mask import draw_once, masks
from smp_caption.config import CAPTION_MODELS, RELATION_TRANSFORMERS, TRANSFORMERS, QuirksConfig
from smp_caption.model import Network, TransformerNetwork, choose_caching
from smp_caption.model.decoding import options_of
from smp_caption.model.reference_transformer import begin_plain, step_plain

from ..networks import SMALL, pictures, small

NAMES = (*TRANSFORMERS, *RELATION_TRANSFORMERS)
INPUTS = pictures(3, 2, 4)
SHARED: list[dict[str, object]] = [
    {},
    {"share_att_decoder": "kv", "share_layer_decoder": (0, 0, 1)},
    {"share_att_decoder": "qk", "share_layer_decoder": (0, 1, 0)},
]


def transformer(name: str, **changes: object) -> TransformerNetwork:
    network = small(name, **changes).eval()  # type: ignore[arg-type]
    assert isinstance(network, TransformerNetwork)
    return network


def single(network: Network) -> Network:
    """The network in single precision, which oneDNN multiplies."""
    return network.float()


def found(network: Network, opt: dict[str, int]) -> Decoded:
    inputs = INPUTS
    if next(network.parameters()).dtype == torch.float32:
        inputs = type(INPUTS)(*(None if x is None else x.float() for x in INPUTS))
    with torch.inference_mode():
        return decode(network.step, network.begin(inputs), options_of(network.cfg, opt))


def walk(network: TransformerNetwork, words: Tensor) -> list[Tensor]:
    """Log-probabilities after each of the words (N, T)."""
    state, all_found = network.begin(INPUTS).expand(len(words) // INPUTS.images), []
    for tokens in words.unbind(dim=1):
        log_probs, state = network.step(tokens, state)
        all_found.append(log_probs)
    return all_found


@pytest.mark.parametrize("changes", SHARED)
@pytest.mark.parametrize("name", NAMES)
def test_exact_caches_equal_reading_the_whole_sentence_again(name: str, changes: dict[str, object]) -> None:
    network = transformer(name, **changes)
    options = replace(options_of(network.cfg, {"beam_size": 3}), early_stop=False)
    with torch.inference_mode():
        plain = beam_search_plain(partial(step_plain, network), begin_plain(network, INPUTS), options)
    ours = found(network, {"beam_size": 3})
    assert torch.equal(ours.tokens, plain.tokens)
    torch.testing.assert_close(ours.scores, plain.scores, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_steps_give_teacher_forcings_numbers_with_its_gradients(name: str) -> None:
    network = transformer(name, share_layer_decoder=(0, 0, 1))
    seqs = torch.randint(4, SMALL.vocab_size, (6, 5), generator=torch.Generator().manual_seed(1))
    gradients = []
    for way in (
        lambda: torch.stack(walk(network, seqs[:, :-1]), dim=1),
        lambda: network(INPUTS, seqs),
    ):
        network.zero_grad()
        log_probs = way()
        log_probs.square().sum().backward()
        gradients.append([log_probs.detach(), *(p.grad for p in network.parameters())])
    for ours, taught in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, taught, atol=1e-8, rtol=1e-6)


def test_a_state_may_be_stepped_twice_and_no_image_is_repeated_for_its_beams() -> None:
    network = transformer("relation_transformer")
    state = network.begin(INPUTS).expand(4)
    key, value = state.per_image["source"][0]
    assert len(key) == len(value) == INPUTS.images
    tokens = torch.full((4 * INPUTS.images,), 5)
    with torch.no_grad():
        _, state = network.step(tokens, state)
        first, _ = network.step(tokens, state)
        again, after = network.step(tokens, state)
    assert torch.equal(first, again)
    assert after.per_image["source"] is state.per_image["source"]
    assert (state.per_beam["time"], after.per_beam["time"]) == (1, 2)


def test_mixed_caches_grow_by_every_depth_that_shares_them() -> None:
    network = transformer("relation_transformer", share_layer_decoder=(0, 0, 1))
    words = torch.full((3, 3), 5)
    exact = walk(network, words)
    network.caching = "mixed"
    state = network.begin(INPUTS)
    for tokens in words.unbind(dim=1):
        _, state = network.step(tokens, state)
    lengths = {place: key.shape[2] for place, (key, _) in state.per_beam["caches"].items()}
    assert lengths == {0: 6, 1: 3}
    assert not torch.allclose(walk(network, words)[-1], exact[-1])


def test_without_caches_only_the_newest_token_and_its_place_count() -> None:
    network = transformer("relation_transformer_prune")
    network.caching = "none"
    one, other = torch.tensor([[5, 6, 7]] * 3), torch.tensor([[8, 9, 7]] * 3)
    assert torch.equal(walk(network, one)[-1], walk(network, other)[-1])
    assert not torch.allclose(walk(network, one)[-1], walk(network, one[:, 1:])[-1])
    network.caching = "exact"
    assert not torch.allclose(walk(network, one)[-1], walk(network, other)[-1])


@pytest.mark.parametrize("name", CAPTION_MODELS)
@pytest.mark.parametrize("order", [None, (0, 0), (0, 1)])
def test_quirks_choose_the_caches(name: str, order: tuple[int, ...] | None) -> None:
    network = small(name, share_layer_decoder=order)
    faithful, fixed = QuirksConfig.of("faithful"), QuirksConfig.of("fixed")
    choose_caching(network, faithful)
    expected = None
    if isinstance(network, TransformerNetwork):
        expected = "mixed" if order == (0, 0) else "exact"
        expected = "none" if name == "relation_transformer_prune" else expected
    assert getattr(network, "caching", None) == expected
    choose_caching(network, replace(faithful, uncached_pruned=False))
    if isinstance(network, TransformerNetwork):
        assert network.caching == ("mixed" if order == (0, 0) else "exact")
    choose_caching(network, fixed)
    assert getattr(network, "caching", "exact") == "exact"


@pytest.mark.parametrize("changes", SHARED)
@pytest.mark.parametrize("name", CAPTION_MODELS)
def test_prepared_networks_find_the_same_captions(name: str, changes: dict[str, object]) -> None:
    network = single(small(name, **changes).eval())  # type: ignore[arg-type]
    expected = found(network, {"beam_size": 3})
    with network.prepared():
        for _ in range(2):
            prepared = found(network, {"beam_size": 3})
            assert torch.equal(prepared.tokens, expected.tokens)
            torch.testing.assert_close(prepared.scores, expected.scores, atol=1e-4, rtol=0)
    assert torch.equal(found(network, {"beam_size": 3}).tokens, expected.tokens)


@pytest.mark.skipif(not onednn.available(), reason="oneDNN is not used on this processor")
def test_packed_maps_are_made_once_and_not_kept_after_the_context() -> None:
    network = single(transformer("relation_transformer"))
    inputs = type(INPUTS)(*(None if x is None else x.float() for x in INPUTS))
    with network.prepared():
        maps = [network.begin(inputs).per_image["maps"] for _ in range(2)]
        assert maps[0].packed
        assert maps[0] is maps[1]
        state = network.begin(inputs)
        tokens = torch.full((3,), 5)
        expected, _ = network.step(tokens, state)
        with torch.autocast("cpu", torch.bfloat16):  # for which nothing is packed
            torch.testing.assert_close(network.step(tokens, state)[0].float(), expected, atol=0.2, rtol=0.1)
    with torch.no_grad():
        assert not network.begin(inputs).per_image["maps"].packed


def test_steps_need_no_prepared_maps() -> None:
    network = transformer("transformer")
    state = network.begin(INPUTS)
    bare = State(
        per_image={name: state.per_image[name] for name in ("source", "bias")}, per_beam=state.per_beam
    )
    tokens = torch.full((3,), 5)
    torch.testing.assert_close(network.step(tokens, bare)[0], network.step(tokens, state)[0])


def test_masked_weights_are_taken_once_a_search_unless_every_call_draws() -> None:
    network = transformer("relation_transformer_prune").train()
    words = torch.full((3, 2), 5)
    with draw_once(network):
        torch.testing.assert_close(walk(network, words), walk(network, words))
    assert not torch.equal(walk(network, words)[1], walk(network, words)[1])
    with torch.no_grad():
        for mask in masks(network).values():
            mask.fill_(1e4)
    torch.testing.assert_close(walk(network, words), walk(network.eval(), words))
