"""Three backwards over disjoint parameters in each micro-batch; leftovers are carried into the next epoch."""

import torch
from torch import nn

from prunelab.data.sampling import EpochSampler
from prunelab.optim import Schedule, cosine, guarded_step
from prunelab.run import Run, RunConfig

ACCUMULATE = 2


def train(cfg: RunConfig) -> dict[str, torch.Tensor]:
    with Run(cfg, name="b") as run:
        data = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
        model = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(3)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = Schedule(optimizer, lambda s: cosine(s, base=0.1, minimum=0.0, total=10))
        sampler = EpochSampler(
            20, 4, seed=3, shuffle=True, drop_last=False, rank=run.rank, world_size=run.world_size
        )
        run.track(model=model, optimizer=optimizer, schedule=schedule, sampler=sampler)
        for _ in run.epochs(3):
            for step, keys in run.steps(sampler):
                batch = data[[key[1] for key in keys]]
                noise = torch.rand_like(batch)
                for part in model:
                    loss = (part(batch) - noise).square().mean() / ACCUMULATE
                    loss.backward()
                if step % ACCUMULATE == 0:  # an odd number an epoch: the last one's gradients wait
                    schedule.step()
                    guarded_step(optimizer, model.parameters(), clip=1.0)
                    optimizer.zero_grad()
                    run.updated()
                if run.due("3 steps"):
                    run.save()
        return model.state_dict()
