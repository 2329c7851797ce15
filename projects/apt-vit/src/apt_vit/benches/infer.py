"""Rows of inference: dropping tokens, beside timm's transformer with the same weights and all tokens.

Dropped logits are held against `apt_vit.tokens.passes.dropped`, picture by picture, before anything is timed.

# B pictures, N tokens, C classes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from apt_vit.benches.agents import keep_about
from apt_vit.benches.infer_reference import timm_transformer
from apt_vit.config import ModelConfig
from apt_vit.model import Agent, VisionTransformer, build
from apt_vit.tokens import passes
from apt_vit.tokens.dropping import Dropper
from apt_vit.tokens.folded import Folded, prune_probability
from apt_vit.tokens.macs import lengths_of, macs_of, mean_macs
from apt_vit.tokens.rules import Rule
from prunelab.bench import Figure, Result, Row, Skip, compare
from prunelab.onednn import OneDNN, available
from prunelab.report import latency

CLOSE = 1e-5
"""Most difference of logits, as a share of the largest one."""
CLOSE_BF16 = 0.1
"""The same where numbers have eight bits, and other tokens may be dropped because of it."""
BY_TORCH, WHOLE_LAST = "torch's maps", "torch's maps, whole last block"
DENSE_BY_ONEDNN = "timm, oneDNN's maps"
"""Further sides of the rows."""
CACHES = 2**26
"""Numbers that are written to make caches forget: 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is classified, and how much of it stays."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(num_classes=100))
    """ViT-B/16 at 224 pixels."""
    keep_rate: float = 0.7
    """Of each clip layer; 197 tokens become 138, 97 and 68."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A network with random weights, pictures, and what must come out."""

    model: VisionTransformer
    images: Tensor
    rule: Rule
    logits: Tensor
    """Of the pictures with dropped tokens, one by one, (B, C)."""
    counts: Tensor
    """Tokens behind each clip layer, (B, layers)."""

    @property
    def kept(self) -> str:
        """The tokens behind each clip layer in words."""
        low, high = self.counts.amin(0).tolist(), self.counts.amax(0).tolist()
        if low == high:
            return "/".join(map(str, low)) + " tokens kept"
        mean = "/".join(f"{one:.0f}" for one in self.counts.double().mean(0).tolist())
        spans = ", ".join(f"{a} to {b}" for a, b in zip(low, high, strict=True))
        return f"{mean} tokens kept on average ({spans})"


class Answer(NamedTuple):
    """What a side says."""

    dropped: bool
    logits: Tensor
    """(B, C)."""


def problem(size: Size, pictures: int, *, varied: bool = False, device: str = "cpu") -> Problem:
    """Random weights and pictures.

    Args:
        size: what is classified.
        pictures: B.
        varied: a threshold decides, so that pictures keep different numbers; their mean is that of the keep
            rate. Else each picture keeps as many, by the keep rate.
        device: where it all is.
    """
    torch.manual_seed(0)
    model = build(size.model).eval()
    images = torch.randn(pictures, 3, *size.model.img_size)
    rule = Rule() if varied else Rule(keep_rate=size.keep_rate)
    if varied:
        keep_about(model, images, size.keep_rate)
    layers = list(model.agents)
    with torch.no_grad():
        found = [passes.dropped(model, image, layers, rule) for image in images.split(1)]
    counts = [[len(each) for each in one.kept.values()] for one in found]
    return Problem(
        model=model.to(device),
        images=images.to(device),
        rule=rule,
        logits=torch.cat([one.logits for one in found]),
        counts=torch.tensor(counts),
    )


def near(found: Tensor, expected: Tensor, close: float = CLOSE) -> bool:
    """Whether logits agree, in the scale of the largest one."""
    return bool((found - expected).abs().max() <= close * expected.abs().max())


def dropping(
    pictures: int, *, varied: bool = False, goal: float | None = None, size: Size | None = None
) -> list[Result]:
    """Dropped batches beside dense ones, and how much of the gain is left with equal linear maps."""
    size = size or Size()
    given = problem(size, pictures, varied=varied)
    model, images, rule = given.model, given.images, given.rule
    dense = timm_transformer(model.cfg, model.state_dict())
    with torch.no_grad():
        if not near(dense(images), passes.plain(model, images)):
            raise AssertionError("timm's transformer does not give our logits")

    @torch.no_grad()
    def theirs() -> Answer:
        return Answer(False, dense(images))

    def theirs_by_onednn() -> Answer:
        with OneDNN():
            return theirs()

    def ours(dropper: Dropper) -> Answer:
        return Answer(True, dropper(images).logits)

    def check(found: Answer, expected: Answer) -> bool:
        return near(found.logits, given.logits if found.dropped else expected.logits)

    extra: dict[str, Callable[[], Answer]] = {
        BY_TORCH: partial(ours, Dropper(model, rule, onednn=False)),
        WHOLE_LAST: partial(ours, Dropper(model, rule, onednn=False, last_cls_only=False)),
    }
    if varied:
        extra["padded"] = partial(ours, Dropper(model, rule, layout="padded"))
    if available():
        extra[DENSE_BY_ONEDNN] = theirs_by_onednn
    name = f"{'different lengths' if varied else 'equal lengths'}, batch {pictures}"
    row = compare(
        name,
        partial(ours, Dropper(model, rule)),
        theirs,
        check,
        extra=extra,
        warmup=2,
        work=pictures,
        unit="pictures",
        goal=goal,
        note=_note(given, varied=varied),
    )
    return [row, _alone(row, given)]


def _note(given: Problem, *, varied: bool) -> str:
    """The setting of a row."""
    layout = "packed" if varied else "one rectangle"
    maps = "by oneDNN" if available() else "by torch"
    return (
        f"{_sizes(given)}, {layout}, agents included, float32, {torch.get_num_threads()} threads; ours: last "
        f"block for the classification token alone, linear maps {maps}; reference: timm, fused attention, "
        "all tokens, whole last block, linear maps by torch"
    )


def _sizes(given: Problem) -> str:
    cfg = given.model.cfg
    return (
        f"D {cfg.hidden_size}, {cfg.num_layers} blocks, {lengths_of(cfg)[0]} tokens, {given.kept}, another "
        "set in each picture"
    )


def _alone(row: Row, given: Problem) -> Figure:
    """How many times faster dropping is where both sides use the same linear maps."""
    medians = {side.name: side.median for side in row.extra}
    cfg, layers = given.model.cfg, list(given.model.agents)
    dense = macs_of(cfg, lengths_of(cfg), "none")
    parts = [f"{row.reference.median / medians[WHOLE_LAST]:.2f} with a whole last block"]
    if DENSE_BY_ONEDNN in medians:
        ratio = medians[DENSE_BY_ONEDNN] / row.ours.median
        parts.append(f"{ratio:.2f} with oneDNN's maps on both sides")
    ratios = [
        dense / mean_macs(cfg, given.counts, layers, "folded", last_cls_only=cls) for cls in (True, False)
    ]
    parts.append(f"multiply-adds: {ratios[0]:.2f}, with a whole last block {ratios[1]:.2f}")
    return Figure(
        name=f"{row.name}: times faster by dropping alone",
        ours=row.reference.median / medians[BY_TORCH],
        unit="times",
        note="torch's linear maps on both sides; " + "; ".join(parts),
    )


# --- agents ---


def agents(pictures: int, *, at_most: float | None = 0.5, size: Size | None = None) -> list[Result]:
    """The agents alone, their matrices not in any cache, and their share of a whole pass."""
    given = problem(size or Size(), pictures)
    model = given.model
    spoiler = torch.zeros(CACHES)
    lengths = lengths_of(model.cfg, dict(zip(model.agents, given.counts[0].tolist(), strict=True)))
    tokens = [torch.randn(pictures, lengths[i], model.cfg.hidden_size) for i in model.agents]
    folded = [Folded.of(agent) for agent in model.agents.values()]
    small, dwarf = Agent(8), torch.randn(1, 2, 8)

    @torch.no_grad()
    def forget() -> list[Tensor]:
        spoiler.add_(1)
        # A pass has just made the tokens, and its operations are no news to the processor.
        for each in tokens:
            each.add_(0)
        prune_probability(Folded.of(small)(model.agent_input(dwarf)))
        small(model.agent_input(dwarf)).softmax(-1)
        return tokens

    @torch.no_grad()
    def ours(given: Sequence[Tensor]) -> list[Tensor]:
        return [prune_probability(each(model.agent_input(x))) for each, x in zip(folded, given, strict=True)]

    @torch.no_grad()
    def plain(given: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(model.agents.values(), given, strict=True)
        return [Agent.prune_probability(agent(model.agent_input(x))) for agent, x in pairs]

    def check(found: list[Tensor], expected: list[Tensor]) -> bool:
        return all(bool(((a - b).abs() <= CLOSE).all()) for a, b in zip(found, expected, strict=True))

    row = compare(
        f"agents, batch {pictures}",
        ours,
        plain,
        check,
        setup=forget,
        warmup=3,
        work=pictures,
        unit="pictures",
        note=f"{len(tokens)} agents on {'/'.join(str(x.shape[1]) for x in tokens)} tokens of width "
        f"{model.cfg.hidden_size}, float32, {torch.get_num_threads()} threads, matrices in no cache; ours: "
        "one matrix each; reference: four linear maps each",
    )
    by_torch, by_onednn = (
        _median(partial(Dropper(model, given.rule, onednn=one), given.images), len(row.ours.seconds))
        for one in (False, True)
    )
    share = Figure(
        name=f"agents, batch {pictures}: share of a pass",
        ours=100 * row.ours.median / by_torch,
        reference=100 * row.reference.median / by_torch,
        unit="%",
        at_most=at_most,
        note=f"of a whole pass that drops, {given.kept}, torch's linear maps; of one with oneDNN's maps "
        f"{100 * row.ours.median / by_onednn:.2f} %",
    )
    return [row, share]


def _median(call: Callable[[], object], rounds: int) -> float:
    """Seconds of a call."""
    return latency(call, calls=rounds, warmup=1, most_seconds=math.inf).median


# --- a graphics card ---


def on_gpu(pictures: int = 256, *, goal: float | None = 1.45, size: Size | None = None) -> Result:
    """Equal lengths in eight-bit mantissas, both sides compiled.

    Raises:
        Skip: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise Skip("no CUDA device")
    return compiled(problem(size or Size(), pictures, device="cuda"), goal)


def compiled(given: Problem, goal: float | None = None) -> Row:
    """Both sides in bfloat16 and compiled, on the device where the problem is."""
    model = given.model.to(torch.bfloat16)
    images = given.images.to(torch.bfloat16)
    dense = torch.compile(timm_transformer(model.cfg, model.state_dict()).to(images))
    dropper = Dropper(model, given.rule)
    dropper.fold()
    forward = torch.compile(dropper.forward)
    with torch.no_grad():
        expected = passes.plain(model, images).float().cpu()

    @torch.no_grad()
    def theirs() -> Answer:
        return Answer(False, dense(images).float().cpu())

    @torch.no_grad()
    def ours() -> Answer:
        return Answer(True, forward(images).logits.float().cpu())

    def check(found: Answer, reference: Answer) -> bool:
        fits = near(reference.logits, expected, CLOSE_BF16)
        return fits and near(found.logits, given.logits if found.dropped else expected, CLOSE_BF16)

    return compare(
        f"equal lengths, batch {len(images)}, {images.device.type}",
        ours,
        theirs,
        check,
        warmup=3,
        work=len(images),
        unit="pictures",
        goal=goal,
        note=f"{_sizes(given)}, bfloat16, both compiled; ours: last block for the classification token "
        "alone; reference: timm, fused attention, all tokens",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "infer-one": lambda: dropping(1, goal=1.5),
    "infer-batch": lambda: dropping(16, goal=1.5),
    "infer-packed": lambda: dropping(16, varied=True, goal=1.45),
    "infer-agents": lambda: agents(1),
    "infer-agents-batch": lambda: agents(16),
    "infer-gpu": on_gpu,
}
"""What ``bench`` measures."""
