"""Surgery at the start of an epoch: fewer hidden units, the optimizer rebuilt, its momentum carried over."""

import torch
from torch import nn

from prunelab.optim import carry_state, guarded_step
from prunelab.run import Run, RunConfig


def build(kept):
    width = 8 if kept is None else len(kept)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def prune(model, optimizer):
    kept = sorted(model[0].weight.norm(dim=1).topk(5).indices.tolist())
    slim, rebuilt = build(kept)
    cuts = {"0.weight": kept, "0.bias": kept, "2.weight": (slice(None), kept)}
    before, after = dict(model.named_parameters()), dict(slim.named_parameters())
    slim.load_state_dict({name: value[cuts.get(name, ())] for name, value in model.state_dict().items()})
    carry_state(optimizer, rebuilt, before, after, lambda name, value: value[cuts.get(name, ())])
    return slim, rebuilt, kept


def train(cfg: RunConfig) -> dict[str, torch.Tensor]:
    with Run(cfg, name="d") as run:
        model, optimizer = build(run.structure)
        run.track(model=model, optimizer=optimizer)
        data = torch.utils.data.DataLoader(torch.arange(60.0).view(15, 4) / 60, batch_size=5, shuffle=True)
        for epoch in run.epochs(4):
            if epoch == 2 and run.structure is None:
                model, optimizer, kept = prune(model, optimizer)
                run.retrack(model=model, optimizer=optimizer, structure=kept)
            for _, batch in run.steps(data):
                optimizer.zero_grad()
                (model(batch) - torch.rand(5, 1)).square().mean().backward()
                guarded_step(optimizer, model.parameters())
            run.save()  # after the micro-batches: the epoch counts as done
        return model.state_dict()
