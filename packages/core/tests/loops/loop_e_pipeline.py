"""A per-layer pipeline without a loader: each layer is pruned on what the pruned ones before it give."""

import torch
from torch import nn

from prunelab.run import Run, RunConfig


def choose(model: nn.Sequential, layer: int) -> dict[str, object]:
    """Keep the inputs with the largest mean response, and refit the layer to the dense one's output."""
    inputs = torch.rand(64, 6)
    with torch.no_grad():
        hidden = model[:layer](inputs)
        kept = sorted((hidden * torch.rand(6)).abs().mean(0).topk(4).indices.tolist())
        target = model[layer](hidden) - model[layer].bias
        fitted = torch.linalg.lstsq(hidden[:, kept], target).solution.T
    weight = torch.zeros(6, 6)
    weight[:, kept] = fitted
    return {"kept": kept, "weight": weight}


def train(cfg: RunConfig) -> dict[str, torch.Tensor]:
    with Run(cfg, name="e") as run:
        model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(5)])
        run.track(model=model)
        for layer in range(5):
            choice = run.once(f"layer {layer}", lambda layer=layer: choose(model, layer))
            model[layer].weight.data.copy_(choice["weight"])
            run.log(kept=len(choice["kept"]))
        return model.state_dict()
