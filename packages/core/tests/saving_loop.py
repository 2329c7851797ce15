"""A loop that saves at every step, to be killed from outside: ``python saving_loop.py FOLDER``."""

import sys
from pathlib import Path

import torch
from torch import nn

from prunelab.optim import guarded_step
from prunelab.run import Run, RunConfig


def train(folder: Path, *, resume: bool = False) -> torch.Tensor:
    cfg = RunConfig(
        dir=folder, seed=1, resume=resume, device="cpu", log_every="1 steps", tensorboard=False, quiet=True
    )
    with Run(cfg) as run:
        model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
        run.track(model=model, optimizer=optimizer)
        for _ in run.epochs(6):
            for step, batch in run.steps([torch.full((4, 64), i / 10) for i in range(10)]):
                loss = (model(batch) - 1).square().mean()
                loss.backward()
                if step % 3 == 0:
                    guarded_step(optimizer, model.parameters())
                    optimizer.zero_grad()
                run.log(loss=loss)
                run.save(model_folder=lambda to: torch.save(model.state_dict(), to / "model.pt"))
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


if __name__ == "__main__":
    train(Path(sys.argv[1]))
