"""The recorded tiny networks: built from what their folder says, with the recorded weights and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.config import PruneConfig
from channel_prune.model.layers import SamePad
from channel_prune.model.names import to_torch
from testing.parity import Folder


class RecordedNet(nn.Module):
    """Convolutions, each with a batch norm or without, ReLU; mean over height and width; a dense layer.

    Args:
        facts: the folder's configuration.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.facts = facts
        self.pads, self.convs, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for layer in facts["layers"]:
            height, width, inputs, outputs = layer["kernel"]
            stride, dilation = layer["stride"], layer["dilation"]
            same = layer["padding"] == "SAME" and height > 1
            self.pads.append(SamePad(height, stride, dilation) if same else nn.Identity())
            conv = nn.Conv2d(inputs, outputs, (height, width), stride, dilation=dilation, bias=layer["bias"])
            self.convs.append(conv)
            momentum = 1 - facts["bn_momentum"]
            norm = nn.BatchNorm2d(outputs, eps=facts["bn_eps"], momentum=momentum)
            self.norms.append(norm if layer["bn"] else nn.Identity())
        self.classifier = nn.Linear(outputs, facts["nb_classes"])

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to logits."""
        for layer, pad, conv, norm in zip(
            self.facts["layers"], self.pads, self.convs, self.norms, strict=True
        ):
            x = norm(conv(pad(x)))
            assert layer["activation"] in ("relu", None)
            x = F.relu(x) if layer["activation"] else x
        return self.classifier(x.mean((2, 3)))

    def original_names(self) -> dict[str, str]:
        """The recorded name of each weight and statistic."""
        names = {"classifier.weight": f"{self.facts['classifier']}/kernel"}
        names["classifier.bias"] = f"{self.facts['classifier']}/bias"
        kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
        kinds["running_var"] = "moving_variance"
        for i, layer in enumerate(self.facts["layers"]):
            names[f"convs.{i}.weight"] = f"{layer['name']}/kernel"
            if layer["bias"]:
                names[f"convs.{i}.bias"] = f"{layer['name']}/bias"
            if layer["bn"]:
                names |= {f"norms.{i}.{ours}": f"{layer['bn']}/{theirs}" for ours, theirs in kinds.items()}
        return names


def recorded_net(folder: Folder, prefix: str) -> RecordedNet:
    """The folder's network with the weights whose names begin with ``prefix``."""
    net, arrays = RecordedNet(folder.facts), folder.numpy("net.npz")
    state = net.state_dict()
    for ours, theirs in net.original_names().items():
        state[ours] = to_torch(arrays[f"{prefix}/{theirs}"])
    net.load_state_dict(state)
    return net


def pictures(folder: Folder, ranges: Sequence[Sequence[int]]) -> list[Tensor]:
    """The recorded pictures of each [first, last), (B, C, H, W)."""
    images = torch.from_numpy(folder.numpy("net.npz")["X"]).permute(0, 3, 1, 2)
    return [images[first:last] for first, last in ranges]


def prune_config(facts: Mapping[str, Any], **changes: Any) -> PruneConfig:
    """The recorded flags, and the original's way."""
    named = {
        "prune_ratio": "prune_ratio",
        "nb_smpls": "nb_smpls",
        "nb_crops_per_smpl": "nb_crops_per_smpl",
        "batch_size": "batch_size",
        "loss_w_dcy": "loss_w_dcy",
        **{name: name for name in ("skip_op_names", "ista_lrn_rate", "ista_nb_iters")},
        **{name: name for name in ("lstsq_lrn_rate", "lstsq_nb_iters")},
        "skip_frst_layer": "skip_frst_layer",
        "skip_last_layer": "skip_last_layer",
    }
    given = {ours: facts[theirs] for ours, theirs in named.items()}
    way = {"selection": "ista", "reconstruction": "adam", "sample_mode": "train", "positions": "crops"}
    rest = {"compensate_shortcut": False, "recalibrate": 0, "skip_match": "substring"}
    return PruneConfig(**{**given, **way, **rest, **changes})


class RecordedDraws:
    """The recorded random numbers, in their order.

    Args:
        folder: of a recorded network.
    """

    def __init__(self, folder: Folder) -> None:
        self._arrays = folder.numpy("draws.npz")
        self._positions = self._arrays.pop("randint").tolist()
        self._layer = 0

    def begin(self, layer: int) -> None:
        """See `channel_prune.choosing.draws.Draws`."""
        self._layer = layer

    def position(self, size: int) -> int:
        """The next recorded position, which must be one of this size."""
        found = int(self._positions.pop(0))
        assert 0 <= found < size
        return found

    def choice(self, rows: int, count: int) -> np.ndarray:
        """The rows that are used, then the rows that are looked at."""
        first = f"idx1_{self._layer}"
        found = self._arrays.pop(first if first in self._arrays else f"idx2_{self._layer}").astype(np.int64)
        assert len(found) == count
        assert len(np.unique(found)) == count
        assert found.max() < rows
        return found

    def start(self, channels: int) -> np.ndarray:
        """Where the selection starts."""
        found = self._arrays.pop(f"m0_{self._layer}").reshape(-1)
        assert len(found) == channels
        return found

    @property
    def left(self) -> list[str]:
        """What was not drawn."""
        return [*self._arrays, *(["randint"] if self._positions else [])]
