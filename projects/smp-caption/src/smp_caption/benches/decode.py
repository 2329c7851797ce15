"""Rows of ``bench`` about decoding, dense and pruned, beside the plain way.

Up-Down's plain way steps through the layers and repeats an image for every beam; a transformer's reads each
sentence again for every new token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from prunelab.bench import Result, Row, compare
from prunelab.decode import Decoded, DecodeOptions, decode
from prunelab.decode.reference import beam_search_plain
from prunelab.mask import masks
from smp_caption.benches.reference import greedy_plain, make_masks_plain
from smp_caption.benches.sizes import FULL_ORT, KNOWN, KNOWN_ORT, Batch, Sizes, random_batch, row_config
from smp_caption.config import DecodeConfig
from smp_caption.evaluate import decode_options
from smp_caption.model import (
    Inputs,
    Network,
    TransformerNetwork,
    UpDown,
    build,
    reference,
    reference_transformer,
)
from smp_caption.pruner import mask_spec

LOUD = 4.0
"""Random weights are multiplied by it, so that words differ clearly and captions do not tie."""


def _decoder(sizes: Sizes, *, pruned: bool) -> Network:
    """A captioner with random weights; 95 % pruned if ``pruned``."""
    torch.manual_seed(8888)
    cfg = row_config(sizes, pruned=pruned)
    model = build(cfg.model, mask_spec(cfg.model, cfg.prune)).eval()
    logits = masks(model)
    loud = model.body.generator.parameters() if isinstance(model, TransformerNetwork) else model.parameters()
    with torch.no_grad():
        for parameter in loud:
            parameter.mul_(LOUD)
        for mask in logits.values():
            mask.copy_(torch.randn(mask.shape) - 1.645)  # the 95th percentile of a Gaussian
    return model


def _same_captions(ours: Decoded, plain: Decoded) -> bool:
    return torch.equal(ours.tokens, plain.tokens) and torch.allclose(
        ours.scores, plain.scores, atol=1e-3, rtol=1e-5
    )


def _decode_plain(model: Network, batch: Batch, options: DecodeOptions) -> Decoded:
    search = greedy_plain if options.beam_size == 1 else beam_search_plain
    if isinstance(model, UpDown):
        state = reference.begin_plain(model, batch["att_feats"], batch["att_masks"], batch["fc_feats"])
        return search(partial(reference.step_plain, model), state, options)
    assert isinstance(model, TransformerNetwork)
    state = reference_transformer.begin_plain(model, Inputs.of(batch))
    return search(partial(reference_transformer.step_plain, model), state, options)


def _decode(model: Network, batch: Batch, options: DecodeOptions) -> Decoded:
    return decode(model.step, model.begin(Inputs.of(batch)), options)


def decoding(
    sizes: Sizes, beam_size: int, original: str, *, pruned: bool = False, goal: float | None = None
) -> Row:
    """Captions of one batch of pictures; a pruned captioner's masked weights made once, or at each call."""
    batch, model = random_batch(sizes), _decoder(sizes, pruned=pruned)
    plain_model = copy.deepcopy(model)
    make_masks_plain(plain_model)
    # Unknown words stay allowed: the plain searches know no words that are forbidden.
    options = replace(decode_options(model.cfg, DecodeConfig(), beam_size), forbidden=())

    @torch.inference_mode()
    def ours() -> Decoded:
        with model.prepared():
            return _decode(model, batch, options)

    @torch.inference_mode()
    def ours_at_each_call() -> Decoded:
        return _decode(model, batch, options)

    @torch.inference_mode()
    def plain() -> Decoded:
        return _decode_plain(plain_model, batch, options)

    search = "greedy" if beam_size == 1 else f"beam {beam_size}"
    network = "ORT" if sizes.relations else "Up-Down"
    known = f"; the original: {original} ms a caption" if original else ""
    if sizes.relations:  # the original kept keys and values, and is faster than the reference
        known += "; ours with its weights prepared anew; reference: each sentence read again for every token"
    return compare(
        f"{search}, {network}, {'pruned' if pruned else 'dense'}",
        ours,
        plain,
        _same_captions,
        extra={"ours, masks at each call": ours_at_each_call} if pruned else None,
        work=sizes.images,
        unit="captions",
        goal=goal,
        note=f"{sizes.note()}, up to {options.max_length} tokens{known}",
    )


def incremental(sizes: Sizes, images: int, goal: float) -> Row:
    """Beam search of the full-size relation transformer that keeps what it has computed."""
    row = decoding(replace(sizes, images=images), 5, "", goal=goal)
    return replace(row, name=f"{row.name}, batch {images}")


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "decode-greedy": lambda: decoding(KNOWN, 1, "38"),
    "decode-beam2": lambda: decoding(KNOWN, 2, "109"),
    "decode-beam5": lambda: decoding(KNOWN, 5, "235"),
    "evaluate-pruned-greedy": lambda: decoding(KNOWN, 1, "96", pruned=True),
    "evaluate-pruned-beam2": lambda: decoding(KNOWN, 2, "150", pruned=True),
    "evaluate-pruned-beam5": lambda: decoding(KNOWN, 5, "258", pruned=True),
    "decode-ort-greedy": lambda: decoding(KNOWN_ORT, 1, "65"),
    "decode-ort-beam2": lambda: decoding(KNOWN_ORT, 2, "132"),
    "decode-ort-beam5": lambda: decoding(KNOWN_ORT, 5, "246"),
    "decode-full-ort-batch5": lambda: incremental(FULL_ORT, 5, 5.0),
    "decode-full-ort-batch1": lambda: incremental(FULL_ORT, 1, 3.0),
}
"""What ``bench`` measures of decoding."""
