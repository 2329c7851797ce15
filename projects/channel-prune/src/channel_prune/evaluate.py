"""Evaluators: objects whose `run(model)` yields names and values; every picture counts once.

The original takes the mean over batches, all of one size: it begins the data set again where the last batch
would be short. Here the last batch may be short and the mean is over pictures, which is the same wherever the
batch divides the data set, as it does by default.

# B batch, K classes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from channel_prune.steps import Distillation, classify_loss, right_answers, tops
from prunelab import dist


class Classification:
    """Loss and accuracy of a classifier.

    Args:
        batches: pictures (B, 3, H, W) and classes (B,), of this rank.
        classes: K.
        device: of the network.
        amp: ``bf16`` runs the network in mixed precision.
        channels_last: memory format of the pictures.
    """

    def __init__(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        classes: int,
        device: torch.device,
        amp: str = "off",
        channels_last: bool = False,
    ) -> None:
        self.batches, self.classes, self.device = batches, classes, device
        self.amp, self.channels_last = amp, channels_last
        self.counts = [0] * classes
        """Pictures of each class in the last evaluation, over all ranks."""

    @property
    def best_constant(self) -> float:
        """Accuracy of the one class that is best said of every picture of the last evaluation."""
        return max(self.counts) / max(sum(self.counts), 1)

    @torch.no_grad()
    def run(
        self, model: nn.Module, *, decay: float = 0.0, distillation: Distillation | None = None
    ) -> Iterator[tuple[str, float]]:
        """Yield ``loss``, then the names of `channel_prune.steps.tops`.

        Args:
            model: in evaluation mode.
            decay: R, which the original's loss has in evaluation too.
            distillation: so it does D.
        """
        names = list(tops(self.classes))
        sums = torch.zeros(1 + len(names), dtype=torch.float64)
        counts = torch.zeros(self.classes, dtype=torch.int64)
        for x, y in self.batches:
            x, y = on_device(x, self.device, channels_last=self.channels_last), y.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp == "bf16"):
                s = model(x)
            s = s.float() if s.dtype == torch.bfloat16 else s
            loss = len(y) * classify_loss(x, y, s, distillation).double()
            sums += torch.stack([loss, *right_answers(s, y).values()]).cpu()
            counts += torch.bincount(y, minlength=self.classes).cpu()
        everywhere = dist.gather_objects([(sums.tolist(), counts.tolist())])
        self.counts = [sum(of_class) for of_class in zip(*(part[1] for part in everywhere), strict=True)]
        total = max(sum(self.counts), 1)
        means = [sum(values) / total for values in zip(*(part[0] for part in everywhere), strict=True)]
        yield "loss", means[0] + decay
        yield from zip(names, means[1:], strict=True)


def on_device(x: Tensor, device: torch.device, *, channels_last: bool = False) -> Tensor:
    """Pictures on the network's device, in the memory format that was asked for."""
    x = x.to(device, non_blocking=True)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x
