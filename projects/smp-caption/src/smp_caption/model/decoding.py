"""The original's decoding options, as its models take them in ``opt``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunelab.decode import DecodeOptions
from prunelab.errors import UserError
from smp_caption.config import UP_DOWN, ModelConfig


def options_of(cfg: ModelConfig, opt: Mapping[str, Any], *, original: bool = False) -> DecodeOptions:
    """Read ``opt``, in which every key may be missing.

    ``beam_size`` 1, ``num_random_sample`` 0, ``temperature`` 1, ``decoding_constraint`` 0, ``group_size`` 1,
    ``diversity_lambda`` 0.5, ``length_penalty`` "", ``suppress_UNK`` 0 (without effect in the original).
    ``remove_bad_endings`` has no effect, and stopped the original's transformers. Other keys are left to
    others.

    Args:
        cfg: length limit and special ids.
        opt: the options.
        original: record and restore beams as the original does, and refuse what it refused or could not run.

    Raises:
        UserError: a value that is out of range, or (``original``) diverse beams, random samples of beams or
            bad endings to remove.
    """
    beam_size, samples = int(opt.get("beam_size", 1)), int(opt.get("num_random_sample", 0))
    groups = int(opt.get("group_size", 1))
    if original and beam_size > 1 and samples < 1 and groups > 1:
        raise UserError(
            f"group_size {groups} never worked in the original (its diverse beams stop at the second step): "
            "expected 1, or preset fixed"
        )
    if original and samples > 0 and beam_size >= 1:
        raise UserError(
            f"beam_size {beam_size} goes with no num_random_sample ({samples}) in the original: "
            "expected beam_size 0"
        )
    if original and opt.get("remove_bad_endings", 0) and cfg.caption_model not in UP_DOWN:
        raise UserError(
            f"remove_bad_endings {opt['remove_bad_endings']} stopped the original's transformers: "
            "expected 0, or preset fixed"
        )
    suppressed = bool(opt.get("suppress_UNK", 0)) and not original
    return DecodeOptions(
        max_length=cfg.max_seq_length,
        bos=cfg.bos_token_id,
        eos=cfg.eos_token_id,
        pad=cfg.pad_token_id,
        beam_size=max(1, beam_size),
        num_samples=max(0, samples),
        temperature=float(opt.get("temperature", 1.0)),
        forbidden=(cfg.unk_token_id,) if suppressed and cfg.unk_token_id >= 0 else (),
        constraint=bool(opt.get("decoding_constraint", 0)),
        group_size=groups if beam_size > 1 else 1,
        diversity_lambda=float(opt.get("diversity_lambda", 0.5)),
        length_penalty=opt.get("length_penalty") or "",
        record_after_end=original,
        restore_ended=original,
    )
