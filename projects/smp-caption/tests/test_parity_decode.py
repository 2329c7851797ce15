"""Captions decoded by the models against those recorded from the original system."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from prunelab.decode import Decoded, decode
from prunelab.errors import UserError
from smp_caption.config import RELATION_TRANSFORMERS, TRANSFORMERS
from smp_caption.model import Network, TransformerNetwork
from smp_caption.model.decoding import options_of
from smp_caption.model.reference_transformer import begin_plain, step_plain
from smp_caption.tokenizer import RadixTokenizer, Tokenizer
from testing.parity import Folder, all_folders, of_kind

from .parity_models import (
    assert_within,
    decoding_as,
    image_of,
    images,
    inputs_of,
    model_of,
    recorded_model,
)


def decoded(folder: Folder, model: Network, opt: dict[str, Any], *, original: bool) -> Decoded:
    decoding_as(model, original=original)
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
@of_kind("dense", "pruned")
def test_captions_of_every_option_are_the_recorded_ones(folder: Folder) -> None:
    entries = folder.json("decode.json")
    assert_recorded(folder, recorded_model(folder), entries, original=True)


def tokenizer_of(folder: Folder) -> Tokenizer:
    """The recorded tokenizer of the folder's configuration; the test is skipped where there is none."""
    wanted = folder.json("config.json")
    for home in all_folders(folder.path.parent):
        for entry in home.facts["types"] if home.kind == "tokenizers" else []:
            if entry["tokenizer"] != wanted["tokenizer"] or not entry["model_file"]:
                continue
            if entry["tokenizer"] != "radix":
                return Tokenizer(home.file(entry["model_file"]), kind=entry["tokenizer"])
            if entry["radix_base"] == wanted["radix_base"]:
                return RadixTokenizer(home.file(entry["model_file"]), base=entry["radix_base"])
    pytest.skip(f"{folder.path.parent} records no tokenizer of kind {wanted['tokenizer']}")


BEST_WORDS = re.compile(r"(?:greedy|beam(?P<beams>\d+)_best)_decoded")
"""Names of what the best captions of a search are in words."""


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_the_best_captions_of_a_search_are_the_recorded_words(folder: Folder) -> None:
    expected = folder.json("expected.json")
    searches = {key: found for key in expected if (found := BEST_WORDS.fullmatch(key))}
    if not searches:
        pytest.skip(f"{folder.path} records no words")
    tokenizer, model = tokenizer_of(folder), recorded_model(folder)
    for key, name in searches.items():
        found = decoded(folder, model, {"beam_size": int(name["beams"] or 1)}, original=True)
        assert [tokenizer.decode(image[0]) for image in found.tokens.tolist()] == expected[key], key


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_captions_of_the_fixed_preset_are_the_recorded_ones(folder: Folder) -> None:
    entries = folder.json("decode_fixed.json")
    assert_recorded(folder, recorded_model(folder), entries, original=False)


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_greedy_captions_without_mixed_caches_are_the_recorded_ones(folder: Folder) -> None:
    expected = folder.json("expected_clean_greedy.json")
    model = recorded_model(folder)
    found = decoded(folder, model, {}, original=False)
    tokens = torch.tensor(expected["seq"]).view_as(found.tokens)
    assert torch.equal(found.tokens, tokens)
    ended = (tokens == model.cfg.eos_token_id).cumsum(dim=2) - (tokens == model.cfg.eos_token_id).int() > 0
    log_probs = torch.tensor(expected["seq_logprobs"]).view_as(found.log_probs).masked_fill(ended, 0.0)
    assert_within(found.log_probs, log_probs, folder.tolerance["scores"])


@pytest.mark.parity
@of_kind("pruned")
def test_sparse_export_in_the_dense_class_decodes_the_recorded_captions(folder: Folder) -> None:
    model = model_of(folder, dense_class=True)
    model.load_original(folder.weights("*_pruned_sparse.pth"))
    assert_recorded(folder, model, folder.json("decode_dense_class.json"), original=True)


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_images_one_by_one_give_the_captions_of_the_batch(folder: Folder) -> None:
    model, batch = recorded_model(folder), inputs_of(folder)
    for opt in ({}, {"beam_size": 3}):
        together = decoded(folder, model, opt, original=False)
        for place in range(len(batch["att_feats"])):
            with torch.inference_mode():
                state = model.begin(image_of(batch, place))
                alone = decode(model.step, state, options_of(model.cfg, opt))
            assert torch.equal(alone.tokens[0], together.tokens[place])


@pytest.mark.parity
@of_kind("dense", "pruned", caption_model=(*TRANSFORMERS, *RELATION_TRANSFORMERS))
def test_decoding_with_exact_caches_equals_reading_the_whole_sentence_again(folder: Folder) -> None:
    model, inputs = decoding_as(recorded_model(folder), original=False), images(inputs_of(folder))
    assert isinstance(model, TransformerNetwork)
    shape = (inputs.images * 2, model.cfg.max_seq_length)
    words = torch.randint(model.cfg.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, plain = model.begin(inputs).expand(2), begin_plain(model, inputs).expand(2)
        for tokens in words.unbind(dim=1):
            (found, ours), (expected, plain) = model.step(tokens, ours), step_plain(model, tokens, plain)
            assert_within(found, expected, folder.tolerance["logprobs"])
