"""APT: a vision transformer that learns which tokens to drop.

```python
import apt_vit

m = apt_vit.load("runs/tour-001/best")
print(m.classify("cat.jpg"))
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from apt_vit.classifier import Classifier
    from apt_vit.model import VisionTransformer
    from prunelab.util import StrPath

__version__ = "0.1.0"


def load(path: StrPath, *, device: str | torch.device = "cpu") -> Classifier:
    """Load a classifier from a model folder, a run, a tour, or a file of weights.

    Args:
        path: the folder or file; or the id of a model on the Hub.
        device: where the network goes.

    Returns:
        What has ``classify`` and ``kept``.

    Raises:
        prunelab.errors.UserError: nothing is there, or no network that is known.
    """
    from apt_vit.files.loading import open_weights

    return open_weights(path, device=device)[0]


def build(name: str = "ViT-B_16", **sizes: Any) -> VisionTransformer:
    """Build a network with new weights, whose agents prune nothing yet.

    Args:
        name: one of `apt_vit.config.MODEL_TYPES`.
        **sizes: fields of `apt_vit.config.ModelConfig`, such as ``img_size`` and ``num_classes``.

    Raises:
        prunelab.errors.UserError: there is no such network, or a size that does not fit.
    """
    from apt_vit.lowering import network
    from apt_vit.model import build as build_network
    from apt_vit.model.initialise import fresh_agents

    model = build_network(network(name, **sizes))
    fresh_agents(model.agents.values())
    return model
