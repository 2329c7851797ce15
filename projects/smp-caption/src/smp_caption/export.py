"""``export``: a trained model in another format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from prunelab.config import to_plain
from prunelab.decode import State
from prunelab.errors import UserError, entry
from prunelab.mask import MASK_SUFFIX, packed
from smp_caption import original
from smp_caption.captioner import Captioner
from smp_caption.cli import parse_export
from smp_caption.config import Config, PruneConfig
from smp_caption.export_original import sparse_state
from smp_caption.model import Inputs, Network, UpDown
from smp_caption.model.up_down import Encoded, Hidden
from smp_caption.options import ExportOptions

SUFFIXES = {
    "original": ".pth",
    "sparse": ".sparse.pth",
    "binary": ".bin_mask.pth",
    "packed": ".pack",
    "onnx": ".onnx",
}


def export(options: ExportOptions) -> Path:
    """Write the model in the format asked for.

    ``original``: the original's state dict, masks included; ``sparse``: pruned weights as COO tensors;
    ``binary``: all weights, with masks rounded. Beside these three ``config.json`` and ``tokenizer/`` are
    written where there is no ``config.json``, since such a file loads only with them. ``packed``: a packed
    sparse file; ``onnx``: a folder with graphs of the encoder and of a decoder step, compared with PyTorch.

    Raises:
        UserError: no such model, or one without masks where masks are needed.
    """
    source = original.find(Path(options.model))
    captioner = original.load(source)
    base = source if source.is_dir() else source.with_suffix("")
    target = Path(options.output) if options.output else base.with_name(base.name + SUFFIXES[options.format])
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over the model itself; name another --output")
    if options.dry_run:
        print(f"{source}: would be written to {target}")
        return target
    match options.format:
        case "original":
            original.write_state(target, captioner.model.state_dict())
        case "sparse":
            original.write_state(target, sparse_state(captioner.model))
        case "binary":
            original.write_state(target, rounded_masks(captioner.model))
        case "packed":
            packed.pack(captioner.pruned().model.state_dict(), target, merge_zeros=True)
        case "onnx":
            export_onnx(captioner.pruned(), target)
        case other:
            raise UserError(f"format {other!r} is not known, expected one of {', '.join(SUFFIXES)}")
    if options.format in ("original", "sparse", "binary"):
        _describe(captioner, source, target.parent)
    print(f"written: {target}")
    return target


def _describe(captioner: Captioner, source: Path, folder: Path) -> None:
    """Write what the original needs beside its weights, unless it is there."""
    if (folder / original.CONFIG).is_file():
        return
    cfg = original.run_config(source.parent)
    prune = (
        PruneConfig() if captioner.mask is None else replace(cfg.prune, prune_type=_method(cfg, captioner))
    )
    cfg = replace(cfg, model=captioner.config, prune=prune)
    original.write_config(folder, cfg, captioner, best_global_step=captioner.notes.get("step"))
    print(f"written: {folder / original.CONFIG}, {folder / 'tokenizer'}")


def _method(cfg: Config, captioner: Captioner) -> str:
    """How the masks of a model came about, as far as its run or its masks tell."""
    supermask = captioner.mask is not None and captioner.mask.kind == "supermask"
    return cfg.prune.prune_type or ("supermask" if supermask else "mask_freeze")


def rounded_masks(model: Network) -> dict[str, Tensor]:
    """The state with its mask logits rounded to 0 and 1 and its weights as they are (``binarize_supermask``).

    Raises:
        UserError: a model without masks.
    """
    state = model.state_dict()
    if not any(name.endswith(MASK_SUFFIX) for name in state):
        raise UserError("the model has no masks to round: expected a pruned one")
    return {n: (v > 0).to(v.dtype) if n.endswith(MASK_SUFFIX) else v for n, v in state.items()}


class EncoderGraph(nn.Module):
    """Features to what all steps of a picture's caption share."""

    def __init__(self, model: UpDown) -> None:
        super().__init__()
        self.model = model

    def forward(self, att_feats: Tensor, fc_feats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, S, F) and (B, F) to regions (B, S, R), their keys (B, S, A) and the mean (B, R)."""
        encoded = self.model.encode(Inputs(att_feats, None, fc_feats))
        return encoded.att, encoded.p_att, encoded.fc


class StepGraph(nn.Module):
    """One step of decoding."""

    def __init__(self, model: UpDown) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, att: Tensor, p_att: Tensor, fc: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map tokens (N,) and state h, c (2, N, R) to log-probabilities (N, V) and the next state."""
        image = {"encoded": Encoded(att=att, p_att=p_att, mask=None, fc=fc), "shared": None, "fixed": None}
        state = State(per_image=image, per_beam=Hidden(h[0], c[0], h[1], c[1]))
        log_probs, state = self.model.step(tokens, state)
        after: Hidden = state.per_beam
        return log_probs, torch.stack([after.h_att, after.h_lang]), torch.stack([after.c_att, after.c_lang])


def export_onnx(captioner: Captioner, folder: Path) -> None:
    """Write ``encoder.onnx`` and ``step.onnx`` with a free batch size, each run and compared with PyTorch."""
    from prunelab.export import to_onnx

    folder.mkdir(parents=True, exist_ok=True)
    model, cfg = captioner.model.cpu().eval(), captioner.config
    if not isinstance(model, UpDown):
        raise UserError(f"caption_model {cfg.caption_model}: only Up-Down is exported to ONNX")
    generator = torch.Generator().manual_seed(0)
    att = torch.randn(2, 7, cfg.att_feat_size, generator=generator)
    images, regions = {0: "pictures"}, {0: "pictures", 1: "regions"}
    first = to_onnx(
        EncoderGraph(model),
        (att, att.mean(1)),
        folder / "encoder.onnx",
        input_names=["att_feats", "fc_feats"],
        output_names=["att", "p_att", "fc"],
        dynamic={"att_feats": regions, "fc_feats": images},
        metadata=to_plain(cfg),
    )
    with torch.no_grad():
        encoded = model.encode(Inputs(att, None, att.mean(1)))
    state = torch.zeros(2, 2, cfg.rnn_size)
    rows = {1: "pictures"}
    second = to_onnx(
        StepGraph(model),
        (
            torch.tensor([cfg.bos_token_id, cfg.eos_token_id]),
            encoded.att,
            encoded.p_att,
            encoded.fc,
            state,
            state,
        ),
        folder / "step.onnx",
        input_names=["tokens", "att", "p_att", "fc", "h", "c"],
        output_names=["log_probs", "h_next", "c_next"],
        dynamic={"tokens": images, "att": regions, "p_att": regions, "fc": images, "h": rows, "c": rows},
        metadata=to_plain(cfg),
    )
    captioner.tokenizer.save(folder)
    for report in (first, second):
        print(report)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``export``."""
    export(parse_export(argv))


if __name__ == "__main__":
    main()
