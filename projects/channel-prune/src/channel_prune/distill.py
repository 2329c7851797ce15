"""The distillation loss: cross entropy with the softened answers of a teacher.

| symbol | meaning | shape |
|---|---|---|
| s | logits of the student | (B, K) |
| t | logits of the teacher, without gradient | (B, K) |
| T | temperature | |
| w | weight of the loss | |

L = w * mean over pictures of CE(softmax(t / T), softmax(s / T))
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from channel_prune.config import DistillConfig


def distillation_loss(student: Tensor, teacher: Tensor, cfg: DistillConfig) -> Tensor:
    """L above. The original has no factor T^2 and does not subtract the entropy of the teacher.

    Args:
        student: s, (B, K).
        teacher: t, (B, K).
        cfg: w and T.
    """
    targets = F.softmax(teacher.detach() / cfg.tempr_dst, dim=1)
    return cfg.loss_w_dst * F.cross_entropy(student / cfg.tempr_dst, targets)
