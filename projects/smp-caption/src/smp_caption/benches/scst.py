"""Rows of ``bench`` about self-critical training: a step, its memory, and what rewards cost of it.

Networks have the published sizes and the published batch, 5 pictures with 15 samples each; samples are given,
so that both sides score the same ones, and dropout is 0, so that they get the same loss. The reference keeps
the gradients of every step of the sampling and counts the n-grams of every reference again for each sample.
"""

# B pictures, n samples of a picture, N = B * n, L tokens of the longest sample

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from prunelab.bench import Figure, Result, Row, compare
from prunelab.bench.memory import peak_above, peak_figure
from prunelab.bench.reference_caption import bleu, cider_d, document_frequency
from prunelab.caption.frequency import DocumentFrequency
from prunelab.decode import Draw, State
from prunelab.decode.protocol import map_tensors
from prunelab.report import latency
from smp_caption.config import Config, ModelConfig, QuirksConfig, ScstConfig
from smp_caption.learning.scst import SelfCritical
from smp_caption.model import Inputs, Network, build
from smp_caption.tokenizer import Tokenizer, train_sentencepiece

SHARE = 0.5
"""Most per cent of a step that rewards may cost."""
REFERENCES = 5
BLEU = (0.0, 0.0, 0.0, 1.0)

Done: TypeAlias = tuple[float, float]
"""Loss of a step, and the norm of its gradients."""


def _network(name: str) -> ModelConfig:
    return ModelConfig(caption_model=name, drop_prob_lm=0.0, drop_prob_src=0.0, drop_prob_layer=0.0)


@dataclass(frozen=True, kw_only=True)
class ScstSize:
    """Sizes of a step."""

    model: ModelConfig
    """The network, without dropout."""
    images: int = 5
    """Pictures B of a batch."""
    samples: int = 15
    """Samples n of each picture."""
    regions: int = 36
    """Regions of a picture."""
    pictures: int = 2000
    """Training pictures that the document frequencies come from."""

    def note(self) -> str:
        """The sizes in words."""
        return (
            f"{self.model.caption_model}, V {self.model.vocab_size}, float32, "
            f"{self.images} images x {self.samples} samples of 8 to 14 tokens, {self.regions} regions"
        )


UP_DOWN = ScstSize(model=_network("up_down_lstm"))
ORT = ScstSize(model=_network("relation_transformer"))


class Setting:
    """A network, a batch, samples of it, and what rewards them.

    Args:
        size: of all of it.
        network: one that is there already; None: a new one of random weights.
    """

    def __init__(self, size: ScstSize, network: Network | None = None) -> None:
        torch.manual_seed(8888)
        self.size = size
        self.network = build(size.model).train() if network is None else network

    @cached_property
    def words(self) -> list[str]:
        """Every word that is no special id of the network."""
        return [f"w{number:05d}" for number in range(self.size.model.vocab_size - 4)]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """A word model of them."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "word.model")
            model = train_sentencepiece(self.words, model_type="word", vocab_size=self.size.model.vocab_size)
            path.write_bytes(model)
            return Tokenizer(path)

    def captions(self, count: int, seed: int) -> list[str]:
        """Captions of 7 to 13 words, rare ones as rare as in a language."""
        generator = torch.Generator().manual_seed(seed)
        chances = 1 / torch.arange(5, 5 + len(self.words))
        drawn = torch.multinomial(chances, 13 * count, replacement=True, generator=generator).view(count, 13)
        lengths = torch.randint(7, 14, (count,), generator=generator).tolist()
        rows = zip(drawn.tolist(), lengths, strict=True)
        return [" ".join(self.words[place] for place in row[:length]) for row, length in rows]

    @cached_property
    def references(self) -> list[list[str]]:
        """Captions of the training pictures, those of the batch first."""
        every = self.captions(REFERENCES * self.size.pictures, seed=1)
        return [every[place : place + REFERENCES] for place in range(0, len(every), REFERENCES)]

    @cached_property
    def tokens(self) -> Tensor:
        """(B, n, L) samples, ended and padded."""
        rows = [
            torch.tensor(self.tokenizer.encode(text, max_seq_length=0)[1:])
            for text in self.captions(self.size.images * self.size.samples, seed=2)
        ]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded.view(self.size.images, self.size.samples, -1)

    @cached_property
    def inputs(self) -> Inputs:
        """The pictures."""
        generator = torch.Generator().manual_seed(3)
        shape = (self.size.images, self.size.regions)
        att = torch.rand(*shape, self.size.model.att_feat_size, generator=generator)
        corners = torch.rand(*shape, 2, 2, generator=generator).sort(dim=2).values
        return Inputs(att, torch.ones(shape), att.mean(dim=1), corners.flatten(2))

    def self_critical(self, *, through_samples: bool = False) -> SelfCritical:
        """Ours."""
        scst = ScstConfig(scst_num_samples=self.size.samples, scst_bleu_weight=BLEU)
        quirks = QuirksConfig(gradients_through_samples=through_samples)
        split = [[caption.split() for caption in image] for image in self.references]
        frequency = DocumentFrequency.from_captions(split, end=None)
        return SelfCritical(
            Config(model=self.size.model, scst=scst, quirks=quirks), frequency, self.tokenizer
        )

    def draw(self) -> Draw:
        """Hands out the samples."""
        columns = iter(self.tokens.flatten(0, 1).T)
        return lambda _, rows: next(columns)[rows]

    def backward(self, loss: Tensor) -> Done:
        """The gradients of a loss."""
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        norms = [p.grad.norm() for p in self.network.parameters() if p.grad is not None]
        return float(loss.detach()), float(torch.stack(norms).norm())


def our_step(setting: Setting, *, through_samples: bool = False) -> Callable[[], Done]:
    """Samples, rewards, loss and backward pass: ours, or ours through the samples."""
    ours = setting.self_critical(through_samples=through_samples)
    references = setting.references[: setting.size.images]

    def run() -> Done:
        found = ours.loss(setting.network, setting.inputs, references, draw=setting.draw())
        return setting.backward(found.loss)

    return run


def rewards_plain(setting: Setting) -> Callable[[], Tensor]:
    """Rewards (B, n) of the samples: every reference's n-grams are counted again for each sample."""
    frequency = document_frequency(setting.references)
    pictures, tokens = len(setting.references), setting.tokens.tolist()

    def score(ids: list[int], references: list[str]) -> float:
        text = setting.tokenizer.decode(ids)
        _, each = bleu([references], [text])
        return cider_d(text, references, frequency, pictures) + BLEU[3] * each[0][3]

    def run() -> Tensor:
        rows = zip(tokens, setting.references, strict=False)
        return torch.tensor([[score(ids, refs) for ids in image] for image, refs in rows])

    return run


def plain_step(setting: Setting) -> Callable[[], Done]:
    """The original's step: each sample has the picture of its own, and its steps keep their gradients."""
    network, count, rewards = setting.network, setting.size.samples, rewards_plain(setting)
    cfg = network.cfg

    def run() -> Done:
        begun = network.begin(setting.inputs)
        repeat: Callable[[object], object] = partial(map_tensors, lambda x: x.repeat_interleave(count, dim=0))
        state = State(per_image=repeat(begun.per_image), per_beam=repeat(begun.per_beam))
        fed = torch.full((setting.size.images * count,), cfg.bos_token_id)
        chosen = []
        for column in setting.tokens.flatten(0, 1).T:
            log_probs, state = network.step(fed, state)
            chosen.append(log_probs.gather(1, column.unsqueeze(1)).squeeze(1))
            fed = column
        score = rewards()
        baseline = (score.sum(dim=1, keepdim=True) - score) / (count - 1)
        mask = (setting.tokens != cfg.pad_token_id).flatten(0, 1).float()
        each = torch.stack(chosen, dim=1) * (score - baseline).view(-1, 1)
        return setting.backward(-(each * mask).sum() / mask.sum())

    return run


def _alike(ours: Done, plain: Done) -> bool:
    return all(abs(a - b) <= 1e-4 * abs(b) + 1e-6 for a, b in zip(ours, plain, strict=True))


def step(size: ScstSize) -> Row:
    """A step without the optimiser, rewards included."""
    setting = Setting(size)
    return compare(
        f"self-critical step, {size.model.caption_model}",
        our_step(setting),
        plain_step(setting),
        _alike,
        extra={"ours, gradients through samples": our_step(setting, through_samples=True)},
        work=size.images * size.samples,
        unit="samples",
        note=f"{size.note()}; equal samples on all sides, without the optimiser",
    )


def peak_of(side: str, size: ScstSize, threads: int) -> int:
    """Bytes that a step needs at its peak, above libraries, weights and gradients.

    Args:
        side: ``ours`` or ``reference``.
        size: of the step.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    setting = Setting(size)
    make = our_step if side == "ours" else plain_step
    make(Setting(replace(size, images=1, samples=2), setting.network))()  # what libraries set up once
    return peak_above(make(setting))


def memory(size: ScstSize) -> Figure:
    """Peak memory of a step, a fresh process a side."""
    return peak_figure(
        f"peak memory of a self-critical step, {size.model.caption_model}",
        peak_of,
        size,
        most=1.0,
        note=f"{size.note()}; resident memory of a fresh process at its peak, less what it had with "
        "libraries, weights and gradients",
    )


def our_rewards(setting: Setting) -> Callable[[], Tensor]:
    """Rewards (B, n) of the samples: tokens to strings, references prepared, CIDEr-D and BLEU."""
    ours, references = setting.self_critical(), setting.references[: setting.size.images]
    return lambda: ours.score(setting.network.cfg, setting.tokens, ours.cook(references))


def rewards(size: ScstSize = UP_DOWN) -> Row:
    """The rewards of a batch alone."""
    setting = Setting(size)
    return compare(
        "rewards of a batch, strings included",
        our_rewards(setting),
        rewards_plain(setting),
        lambda ours, plain: torch.allclose(ours, plain.double(), atol=1e-5),
        warmup=3,
        work=size.images * size.samples,
        unit="samples",
        note=f"{size.images} images x {size.samples} samples, {REFERENCES} references an image; CIDEr-D and "
        "BLEU-4",
    )


def _seconds(run: Callable[[], object], calls: int) -> float:
    """The median of some calls after one that does not count."""
    return latency(run, calls=calls, warmup=1, most_seconds=math.inf).median


def share(size: ScstSize) -> Figure:
    """How much of a step the rewards take, in per cent."""
    setting = Setting(size)
    whole = _seconds(our_step(setting), 3)
    return Figure(
        name=f"rewards in a self-critical step, {size.model.caption_model}",
        ours=100 * _seconds(our_rewards(setting), 20) / whole,
        reference=100 * _seconds(rewards_plain(setting), 3) / whole,
        unit="% of our step",
        at_most=SHARE,
        note=f"{size.note()}; medians; strings and the preparation of references included",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "scst-up-down": lambda: step(UP_DOWN),
    "scst-ort": lambda: step(ORT),
    "scst-memory": lambda: [memory(UP_DOWN), memory(ORT)],
    "scst-rewards": rewards,
    "scst-reward-share": lambda: [share(UP_DOWN), share(ORT)],
}
"""What ``bench`` measures of self-critical training."""
