"""channel-prune: LASSO channel pruning, with slim networks that are faster.

```python
import channel_prune

m = channel_prune.load("runs/tour-001/pruned/slim")
print(m.classify("cat.jpg"))
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from channel_prune.classifier import Classifier
    from channel_prune.detector import Detector
    from channel_prune.pruned import Pruned

__version__ = "0.1.0"


def load(path: str | Path, *, net: str = "", device: str = "cpu") -> Classifier | Detector:
    """Load a network from a model folder, a run, a tour, a TensorFlow checkpoint or a file of weights.

    Args:
        path: the folder, the file, or the checkpoint's name; or the id of a model on the Hub.
        net: network that foreign weights are of, such as ``timm:resnet18``; empty: told from the weights.
        device: where the network goes.

    Returns:
        What has ``classify``, or for a detector ``detect``.

    Raises:
        prunelab.errors.UserError: nothing is there, or no network that is known.
    """
    from channel_prune.files.loading import load as load_any

    return load_any(path, net=net, device=device)


def build(name: str, **sizes: Any) -> nn.Module:
    """Build a network with new weights.

    Args:
        name: one of `channel_prune.config.NETS`, ``torchvision:NAME`` or ``timm:NAME``.
        **sizes: fields of `channel_prune.config.NetConfig`, such as ``resnet_size`` and ``nb_classes``.

    Raises:
        prunelab.errors.UserError: there is no such network, or a size is out of range.
    """
    from channel_prune.config import NetConfig
    from channel_prune.model import build as build_net

    return build_net(NetConfig(name=name, **sizes))


def prune_network(
    model: nn.Module, example: Tensor, batches: Sequence[Tensor], ratio: float = 0.5, **options: Any
) -> Pruned:
    """Prune the input channels of any network's convolutions; the network given stays as it is.

    Its name says more than `prune`, which is the module of the command.

    Args:
        model: any network of convolutions that torch.fx can follow.
        example: an input (B, 3, H, W).
        batches: inputs like those it was trained with; a few hundred pictures or more.
        ratio: share of every convolution's input channels that goes, but of the first one's.
        **options: fields of `channel_prune.config.PruneConfig`.

    Returns:
        What has ``model``, the same network with zeros, and ``slim()``, which makes one without them.

    Raises:
        prunelab.errors.UserError: no such option, a value out of range, or a network that cannot be pruned.
    """
    from channel_prune.pruned import prune

    return prune(model, example, batches, ratio, **options)
