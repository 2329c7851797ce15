"""A schedule step each micro-batch, an update where it % n == 0, leftovers of an epoch dropped."""

import torch
from torch import nn

from prunelab.data.sampling import EpochSampler
from prunelab.optim import Schedule, guarded_step, noam
from prunelab.run import Run, RunConfig

ACCUMULATE = 3


def train(cfg: RunConfig) -> dict[str, torch.Tensor]:
    with Run(cfg, name="a") as run:
        data = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
        model = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.3), nn.Linear(6, 1))
        optimizer = torch.optim.Adam(model.parameters())
        schedule = Schedule(optimizer, lambda s: noam(s, d_model=4, warmup=5))
        sampler = EpochSampler(
            24, 4, seed=7, shuffle=True, drop_last=True, rank=run.rank, world_size=run.world_size
        )
        run.track(model=model, optimizer=optimizer, schedule=schedule, sampler=sampler)
        for _ in run.epochs(2):
            loader = ([key[1] for key in keys] for keys in sampler)
            for step, indices in run.steps(loader):
                schedule.step()
                loss = model(data[indices]).square().mean()
                loss.backward()
                if (step - 1) % ACCUMULATE == 0:
                    guarded_step(optimizer, model.parameters(), clip=("value", 0.1))
                    optimizer.zero_grad()
                    run.updated()
                run.log(loss=loss)
                if run.due("2 steps"):
                    run.save()
            optimizer.zero_grad()
        return model.state_dict()
