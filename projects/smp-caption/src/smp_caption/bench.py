"""``bench``: training and decoding of the Up-Down captioners beside the original's plain way.

Sizes are those for which the original's own times are known (two cores shared with other jobs, one thread);
each row's note repeats its figure. Features and captions are random, dropout is 0 so that results can be
compared. The reference is `smp_caption.bench_reference`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

import prunelab.bench
from prunelab.bench import Result, Row, compare
from prunelab.decode import Decoded, DecodeOptions, decode
from prunelab.decode.reference import beam_search_plain
from prunelab.errors import entry
from prunelab.mask import draw_once, masks, use_samples
from prunelab.mask.sparsity import anneal_rate
from prunelab.optim import Schedule
from smp_caption.bench_reference import greedy_plain, make_masks_plain, train_step_plain
from smp_caption.cli import parse_bench
from smp_caption.config import Config, DecodeConfig, ModelConfig, OptimConfig, PruneConfig
from smp_caption.evaluate import decode_options
from smp_caption.model import Inputs, UpDown
from smp_caption.model.reference import begin_plain, step_plain
from smp_caption.pruner import Pruner, mask_spec
from smp_caption.steps import drawing, make_optimizer, make_schedule, train_step

# B images, S regions, K captions an image, N = B * K, T tokens


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a batch and of the network."""

    images: int = 5
    """Pictures B of a batch."""
    captions: int = 5
    """Captions K of each picture."""
    tokens: int = 14
    """Tokens T of a caption, bos and eos included."""
    regions: int = 36
    """Regions S of a picture."""
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            rnn_size=256, input_encoding_size=256, att_hid_size=128, drop_prob_lm=0.0
        )
    )
    """The dense network; dropout 0."""

    def note(self) -> str:
        """The sizes of network and pictures in words."""
        m = self.model
        return (
            f"R {m.rnn_size}, E {m.input_encoding_size}, A {m.att_hid_size}, F {m.att_feat_size}, "
            f"V {m.vocab_size}, float32, {self.images} images x {self.regions} regions"
        )


KNOWN = Sizes()
"""The sizes for which the original's times are known."""
STEPS = 113_280
"""Updates of a whole run on COCO, of which one in the middle is timed."""

CERTAIN = 1000.0
"""A logit whose draw is always 1, and with a minus sign always 0."""

Batch: TypeAlias = dict[str, Tensor]


def _batch(sizes: Sizes) -> Batch:
    """Random features and captions of full length."""
    generator = torch.Generator().manual_seed(8888)
    model, rows = sizes.model, sizes.images * sizes.captions
    regions = torch.rand(sizes.images, sizes.regions, model.att_feat_size, generator=generator)
    seqs = torch.randint(4, model.vocab_size, (rows, sizes.tokens), generator=generator)
    seqs[:, 0], seqs[:, -1] = model.bos_token_id, model.eos_token_id
    return {
        "att_feats": regions,
        "att_masks": torch.ones(sizes.images, sizes.regions),
        "fc_feats": regions.mean(dim=1),
        "seqs": seqs,
        "masks": torch.ones(rows, sizes.tokens),
    }


def _config(sizes: Sizes, *, pruned: bool, per_call: bool = False) -> Config:
    """A published row's optimiser, for 95 % of the weights pruned if ``pruned``."""
    optim = OptimConfig(lr_scheduler="cosine", learning_rate=0.01, optim_epsilon=0.01)
    if not pruned:
        return Config(model=sizes.model, optim=optim)
    cfg = Config(
        model=replace(sizes.model, caption_model="up_down_lstm_prune"),
        optim=optim,
        prune=PruneConfig(prune_type="supermask", prune_sparsity_target=0.95),
    )
    return replace(cfg, quirks=replace(cfg.quirks, masks_per_call=per_call))


class _Pruner(Pruner):
    """A pruner whose masks may be given, so that both sides of a check have the same."""

    given: Mapping[str, Tensor] | None = None

    def drawing(self) -> AbstractContextManager[None]:
        return super().drawing() if self.given is None else use_samples(self.model, self.given)


class _Trainer:
    """One side of a training row: a model with its optimiser, and how a step is made.

    Calling it makes a step and gives the trainer itself, which the row's check starts anew.
    """

    def __init__(self, cfg: Config, batch: Batch, *, plain: bool = False) -> None:
        self.cfg, self.batch, self.plain = cfg, batch, plain
        torch.manual_seed(8888)
        self.model = UpDown(cfg.model, mask_spec(cfg.model, cfg.prune)).train()
        if plain:
            make_masks_plain(self.model)
        self.first = copy.deepcopy(self.model.state_dict())
        self.pruner: _Pruner | None = None
        if cfg.model.pruned:
            self.pruner = _Pruner(self.model, cfg, STEPS)
        self.reset()

    def reset(self) -> None:
        """Go back to the first weights."""
        self.model.load_state_dict(self.first)
        self.optimizer: Optimizer = make_optimizer(self.model, self.cfg.optim, self.cfg.prune)
        self.schedule: Schedule = make_schedule(self.optimizer, self.cfg, STEPS)

    def step(self) -> float:
        """One update; its loss."""
        model, optimizer, cfg, pruner = self.model, self.optimizer, self.cfg, self.pruner
        update = STEPS // 2
        if not self.plain:
            found = train_step(
                model, optimizer, self.schedule, self.batch, cfg, epoch=0, update=update, pruner=pruner
            )
            return float(found["train/loss"])
        self.schedule.step()
        with drawing(pruner):
            return train_step_plain(
                model,
                optimizer,
                self.batch,
                grad_clip=cfg.optim.grad_clip,
                sparsity_target=cfg.prune.prune_sparsity_target,
                sparsity_weight=cfg.sparsity_weight * (1 - anneal_rate(update, STEPS)),
            )

    def __call__(self) -> _Trainer:
        self.step()
        return self


def _near(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Whether no entry differs by more than a ten-thousandth of the largest."""
    if ours is None or theirs is None:
        return ours is theirs
    return bool((ours - theirs).detach().abs().max() <= 1e-4 * theirs.detach().abs().max() + 1e-9)


def _equal_steps(ours: _Trainer, other: _Trainer, prepare: Callable[[_Trainer], None]) -> bool:
    """Whether one step from equal weights has equal loss, clipped gradients and new weights.

    Against a dense network, masks and the loss, of which theirs is a part, are left out.
    """
    losses = []
    for side in (ours, other):
        side.reset()
        prepare(side)
        losses.append(side.step())
        if side.pruner is not None:
            side.pruner.given = None
    parameters = dict(ours.model.named_parameters())
    pairs = [(parameters[name], theirs) for name, theirs in other.model.named_parameters()]
    same_loss = abs(losses[0] - losses[1]) <= 1e-5 * abs(losses[1])
    same_kind = ours.cfg.model.pruned == other.cfg.model.pruned
    return (same_loss or not same_kind) and all(
        _near(one.grad, two.grad) and _near(one, two) for one, two in pairs
    )


def _drawn(side: _Trainer) -> dict[str, Tensor]:
    """Masks, the same for every side."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(mask.shape, generator=generator) < 0.9 for name, mask in masks(side.model).items()
    }


def _give_masks(side: _Trainer) -> None:
    """Let the next step use given masks, so that gradients of the logits can be compared."""
    if side.pruner is not None:
        side.pruner.given = _drawn(side)


def _make_masks_certain(side: _Trainer) -> None:
    """Let every draw give the same masks, so that the way each side draws is a part of the check."""
    with torch.no_grad():
        for mask, drawn in zip(masks(side.model).values(), _drawn(side).values(), strict=True):
            mask.copy_(torch.where(drawn, CERTAIN, -CERTAIN))


def _keep_all(side: _Trainer) -> None:
    """Let every draw keep every weight: a dense network."""
    with torch.no_grad():
        for mask in masks(side.model).values():
            mask.fill_(CERTAIN)


def _step_note(sizes: Sizes, original: str) -> str:
    return f"{sizes.note()} x {sizes.captions} captions x {sizes.tokens} tokens; the original: {original}"


def train_dense(sizes: Sizes = KNOWN) -> Row:
    """One training step of the dense captioner: forward, loss, backward, clipping, Adam."""
    cfg, batch = _config(sizes, pruned=False), _batch(sizes)
    return compare(
        "training step, dense",
        _Trainer(cfg, batch),
        _Trainer(cfg, batch, plain=True),
        lambda ours, plain: _equal_steps(ours, plain, _give_masks),
        work=sizes.images * sizes.captions,
        unit="captions",
        note=_step_note(sizes, "846 ms"),
    )


def train_pruned(sizes: Sizes = KNOWN) -> Row:
    """One training step of the supermask captioner: masks drawn once for the step, and at each call."""
    cfg, batch = _config(sizes, pruned=True), _batch(sizes)
    per_call = _config(sizes, pruned=True, per_call=True)
    return compare(
        "training step, pruned",
        _Trainer(cfg, batch),
        _Trainer(per_call, batch, plain=True),
        lambda ours, plain: (
            _equal_steps(ours, plain, _give_masks) and _equal_steps(ours, plain, _make_masks_certain)
        ),
        extra={"ours, masks at each call": _Trainer(per_call, batch)},
        work=sizes.images * sizes.captions,
        unit="captions",
        note=_step_note(sizes, "2149 ms"),
    )


def mask_cost(sizes: Sizes = KNOWN) -> Row:
    """Our pruned training step beside our dense one."""
    batch = _batch(sizes)
    row = compare(
        "training step, pruned beside dense",
        _Trainer(_config(sizes, pruned=True), batch),
        _Trainer(_config(sizes, pruned=False), batch),
        lambda pruned, dense: _equal_steps(pruned, dense, _keep_all),
        work=sizes.images * sizes.captions,
        unit="captions",
        note=_step_note(sizes, "0.39 x ours (846 of 2149 ms)"),
    )
    return replace(row, reference=replace(row.reference, name="ours, dense"))


# --- decoding ---


def _decoder(sizes: Sizes, *, pruned: bool) -> UpDown:
    """A captioner with random weights, large enough that words differ clearly; 95 % pruned if ``pruned``."""
    torch.manual_seed(8888)
    cfg = _config(sizes, pruned=pruned)
    model = UpDown(cfg.model, mask_spec(cfg.model, cfg.prune)).eval()
    logits = masks(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
        for mask in logits.values():
            mask.copy_(torch.randn(mask.shape) - 1.645)  # the 95th percentile of a Gaussian
    return model


def _same_captions(ours: Decoded, plain: Decoded) -> bool:
    return torch.equal(ours.tokens, plain.tokens) and torch.allclose(
        ours.scores, plain.scores, atol=1e-3, rtol=1e-5
    )


def _decode_plain(model: UpDown, batch: Batch, options: DecodeOptions) -> Decoded:
    state = begin_plain(model, batch["att_feats"], batch["att_masks"], batch["fc_feats"])
    search = greedy_plain if options.beam_size == 1 else beam_search_plain
    return search(partial(step_plain, model), state, options)


def _decode(model: UpDown, batch: Batch, options: DecodeOptions) -> Decoded:
    state = model.begin(Inputs.of(batch))
    return decode(model.step, state, options)


def decoding(beam_size: int, original: str, *, pruned: bool, sizes: Sizes = KNOWN) -> Row:
    """Captions of one batch of pictures; a pruned captioner's masked weights made once, or at each call."""
    batch, model = _batch(sizes), _decoder(sizes, pruned=pruned)
    plain_model = copy.deepcopy(model)
    make_masks_plain(plain_model)
    options = decode_options(model.cfg, DecodeConfig(), beam_size)

    @torch.inference_mode()
    def ours() -> Decoded:
        with draw_once(model):
            return _decode(model, batch, options)

    @torch.inference_mode()
    def ours_at_each_call() -> Decoded:
        return _decode(model, batch, options)

    @torch.inference_mode()
    def plain() -> Decoded:
        return _decode_plain(plain_model, batch, options)

    search = "greedy" if beam_size == 1 else f"beam {beam_size}"
    return compare(
        f"{search}, {'pruned' if pruned else 'dense'}",
        ours,
        plain,
        _same_captions,
        extra={"ours, masks at each call": ours_at_each_call} if pruned else None,
        work=sizes.images,
        unit="captions",
        note=f"{sizes.note()}, up to {options.max_length} tokens; the original: {original} ms a caption",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "train-dense": train_dense,
    "train-pruned": train_pruned,
    "train-mask-cost": mask_cost,
    "decode-greedy": lambda: decoding(1, "38", pruned=False),
    "decode-beam2": lambda: decoding(2, "109", pruned=False),
    "decode-beam5": lambda: decoding(5, "235", pruned=False),
    "evaluate-pruned-greedy": lambda: decoding(1, "96", pruned=True),
    "evaluate-pruned-beam2": lambda: decoding(2, "150", pruned=True),
    "evaluate-pruned-beam5": lambda: decoding(5, "258", pruned=True),
}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    options = parse_bench(argv)
    if options.list:
        print("\n".join(ROWS))
        return
    prunelab.bench.measure(
        ROWS,
        options.names,
        rounds=options.rounds,
        threads=options.threads,
        json=options.json,
        json_table=options.json_table,
    )


if __name__ == "__main__":
    main()
