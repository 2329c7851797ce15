"""Self-critical training: samples of a batch, their rewards, and the loss that makes good ones likelier.

| symbol | meaning | equation | shape |
|---|---|---|---|
| w | samples of a picture | | (B, n, L) |
| m | 1 on real tokens of a sample, its end included | w != pad | (B, n, L) |
| s | score: weights times CIDEr-D and BLEU-1..4 of a sample against the picture's captions | | (B, n) |
| b | baseline ``greedy``: score of the likeliest caption; ``sample``: mean of the other samples | | (B, n) |
| r | reward | s - b | (B, n) |
| J | self-critical loss | -sum(log p(w) r m) / sum(m) | () |
"""

# B pictures, n samples of a picture, N = B * n, L tokens of the longest sample, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from prunelab import dist
from prunelab.caption.cider_d import WeighedReferences
from prunelab.caption.frequency import END, DocumentFrequency
from prunelab.caption.reward import CaptionReward, average_baseline
from prunelab.decode import DecodeOptions, Draw, decode, multinomial_draw
from prunelab.decode.samples import trimmed
from prunelab.modes import evaluating
from smp_caption.config import Config, ModelConfig
from smp_caption.data import CaptionData
from smp_caption.learning.frequencies import ADVICE, Once, check_table, open_frequencies
from smp_caption.model import Inputs, Network
from smp_caption.model.decoding import options_of
from smp_caption.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ScstLoss:
    """What a self-critical step costs, and what its samples were worth."""

    loss: Tensor
    """() J, with gradients."""
    reward: Tensor
    """(B, n) r, float64, on the CPU."""
    baseline: Tensor
    """(B, n) b, float64, on the CPU."""
    tokens: Tensor
    """(B, n, L) w: ids after the start, ends kept, padding after them."""
    greedy: bool
    """Whether the baseline is the greedy caption's score."""

    @property
    def scores(self) -> Tensor:
        """(B, n) s."""
        return self.reward + self.baseline

    def scalars(self) -> dict[str, float]:
        """Means to log.

        With the other samples as baseline r has the mean 0, so what is called reward here is s. The greedy
        captions' score is there where they are decoded anyway.
        """
        found = {
            "train/avg_reward": float(self.scores.mean()),
            "train/avg_baseline": float(self.baseline.mean()),
        }
        return found | ({"train/greedy_reward": found["train/avg_baseline"]} if self.greedy else {})


class SelfCritical:
    """Makes the loss of self-critical steps.

    Args:
        cfg: the run's configuration.
        frequency: how rare n-grams are.
        tokenizer: makes strings of samples.

    Attributes:
        lines: what there is to tell at the start.
        end: the word for a caption's end, where it counts in the reward.

    Raises:
        UserError: the reward weighs nothing.
    """

    def __init__(self, cfg: Config, frequency: DocumentFrequency, tokenizer: Tokenizer) -> None:
        self.cfg, self.tokenizer = cfg.scst, tokenizer
        self.lines: tuple[str, ...] = ()
        self.end = END if cfg.scst.scst_end_in_reward else None
        self.through_samples = cfg.quirks.gradients_through_samples
        self.original = cfg.quirks.original_decoding
        self.reward = CaptionReward(
            frequency=frequency,
            cider_weight=cfg.scst.scst_cider_weight,
            bleu_weights=cfg.scst.scst_bleu_weight,
        )

    @classmethod
    def open(cls, cfg: Config, data: CaptionData, tokenizer: Tokenizer, *, once: Once) -> SelfCritical:
        """Find or make the document frequencies, and check that rewards can be earned.

        Args:
            cfg: the run's configuration.
            data: whose training captions are the references.
            tokenizer: makes strings of samples.
            once: does one-off work and keeps its result (`prunelab.run.Run.once`).

        Returns:
            With ``lines`` to tell: where the frequencies come from, and advice.

        Raises:
            UserError: the table is missing, damaged, or one of other words than the captions', or no caption
                could earn anything.
        """
        table, path = open_frequencies(cfg, data, once)
        made = cls(cfg, table, tokenizer)
        references = [made.with_end(record.references) for record in data.records["train"]]
        worth = check_table(made.reward, references, tokenizer, path=path, end=made.end)
        source = "counted from the training captions" if path is None else str(path)
        frequencies = f"document frequencies of {table.images:,g} pictures: {source}"
        advice = [ADVICE] if cfg.scst.scst_start_epoch == 0 and not cfg.run.start_from else []
        made.lines = (frequencies, worth, *advice)
        return made

    def loss(
        self,
        network: Network,
        inputs: Inputs,
        references: Sequence[Sequence[str]],
        *,
        draw: Draw | None = None,
    ) -> ScstLoss:
        """J of a batch.

        Samples are drawn in training mode, with dropout, as published. They are drawn without gradients and
        then scored by one pass with gradients in the same mode, which has a dropout of its own; under
        ``gradients_through_samples`` the gradients go through the sampling itself. Masks of a supermask are
        those that the caller's context gives (`smp_caption.pruner`): drawn once a step, a sample and its
        scoring see the same ones; drawn at each call, both see their own, one at each time step. The greedy
        caption of a baseline is decoded in evaluation mode, with rounded masks.

        In several processes each divides by the mean number of tokens of a process, so that the mean of
        their gradients is the gradient of the whole batch's J. Collective: all ranks call it.

        Args:
            network: in training mode, which it keeps.
            inputs: B images, on the network's device.
            references: captions of each image, words between blanks.
            draw: chooses the words of random samples; None: torch's own random numbers do.

        Raises:
            UserError: an image without references.
        """
        greedy = self.greedy(network, inputs) if self.cfg.scst_baseline == "greedy" else None
        tokens, log_probs = self.sample(network, inputs, draw)
        weighed = self.cook(references)
        scores = self.score(network.cfg, tokens, weighed)
        if greedy is None:
            baseline = average_baseline(scores)
        else:
            baseline = self.score(network.cfg, greedy, weighed).expand_as(scores)
        reward = scores - baseline
        loss = scst_loss(log_probs, reward.to(log_probs), tokens != network.cfg.pad_token_id)
        return ScstLoss(loss=loss, reward=reward, baseline=baseline, tokens=tokens, greedy=greedy is not None)

    def greedy(self, network: Network, inputs: Inputs) -> Tensor:
        """The likeliest token at each place, in evaluation mode and without gradients.

        Args:
            network: in any mode, which it keeps.
            inputs: B images.

        Returns:
            (B, 1, L).
        """
        with torch.no_grad(), evaluating(network):
            return decode(network.step, network.begin(inputs), options_of(network.cfg, {})).tokens

    def sample(self, network: Network, inputs: Inputs, draw: Draw | None = None) -> tuple[Tensor, Tensor]:
        """Draw or search n captions of each image.

        Args:
            network: in the mode to sample in.
            inputs: B images.
            draw: see `loss`.

        Returns:
            Tokens (B, n, L), and their log-probabilities with gradients, of the same shape.
        """
        options = self._options(network)
        if self.through_samples:
            if options.num_samples and draw is None:
                draw = multinomial_draw(inputs.images * options.num_samples)
            found = decode(network.step, network.begin(inputs), options, draw=draw)
            return found.tokens, found.log_probs
        with torch.no_grad():
            found = decode(network.step, network.begin(inputs), options, draw=draw)
        tokens = trimmed(found.tokens, options.eos)
        return tokens, score_samples(network, inputs, tokens)

    def _options(self, network: Network) -> DecodeOptions:
        """The search, which records what it needs: nothing after an end."""
        count, random = self.cfg.scst_num_samples, self.cfg.scst_sample == "random"
        opt = {"beam_size": 0 if random else count, "num_random_sample": count if random else 0}
        options = options_of(network.cfg, opt, original=self.original)
        # A padding in mid-caption would be read as its end when the sample is scored.
        forbidden = () if self.through_samples else (network.cfg.pad_token_id,)
        return replace(options, gradients=self.through_samples, record_after_end=False, forbidden=forbidden)

    def with_end(self, captions: Sequence[str]) -> list[str]:
        """References as the reward reads them."""
        return [*captions] if self.end is None else [f"{text} {self.end}" for text in captions]

    def cook(self, references: Sequence[Sequence[str]]) -> WeighedReferences:
        """Prepare the captions of each image, once for all of its samples.

        That is done anew in each step: it costs less than a thousandth of it, and the prepared captions of
        all of COCO would fill a gigabyte.

        Raises:
            UserError: an image without references.
        """
        return self.reward.cook([self.with_end(captions) for captions in references])

    def score(self, cfg: ModelConfig, tokens: Tensor, references: WeighedReferences) -> Tensor:
        """The scores s of captions.

        Args:
            cfg: of the network that wrote them.
            tokens: (B, K, L) ids after the start.
            references: of the B images.

        Returns:
            (B, K) float64, on the CPU.
        """

        def text(ids: list[int]) -> str:
            said = self.tokenizer.decode(ids)
            return said if self.end is None or cfg.eos_token_id not in ids else f"{said} {self.end}"

        return self.reward.score([[text(ids) for ids in image] for image in tokens.tolist()], references)


def score_samples(network: Network, inputs: Inputs, tokens: Tensor) -> Tensor:
    """Log-probabilities of finished samples by one pass over them, in the network's present mode.

    Args:
        network: scores them.
        inputs: B images.
        tokens: (B, n, L) ids after the start.

    Returns:
        (B, n, L), with gradients where they are on.
    """
    seqs = F.pad(tokens, (1, 0), value=network.cfg.bos_token_id)  # (B, n, 1 + L)
    log_probs = network(inputs, seqs)  # (N, L, V)
    return log_probs.gather(2, tokens.flatten(0, 1).unsqueeze(2)).view(tokens.shape)


def scst_loss(log_probs: Tensor, reward: Tensor, mask: Tensor) -> Tensor:
    """J of this process's samples.

    Args:
        log_probs: (B, n, L) of each token.
        reward: (B, n), without gradients.
        mask: (B, n, L) whether a token is real.

    Returns:
        () with gradients.
    """
    total = torch.where(mask, log_probs * reward.unsqueeze(2), 0.0).sum()
    return -total / dist.mean_over_ranks(mask.sum())
