"""Decoding in evaluation mode and sampling inside a step; validation and the best checkpoint."""

import torch
from torch import nn

from prunelab.optim import guarded_step
from prunelab.run import Run, RunConfig, evaluating


def train(cfg: RunConfig) -> dict[str, torch.Tensor]:
    with Run(cfg, name="c") as run:
        data = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 6))
        model[1].eval()  # a mode of its own, which decoding must give back
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        run.track(model=model, optimizer=optimizer)
        for _ in run.epochs(2):
            for _, batch in run.steps(data):
                with evaluating(model), torch.no_grad():
                    greedy = model(batch).argmax(-1)
                log_probs = model(batch).log_softmax(-1)
                sampled = torch.multinomial(log_probs.exp(), 1).squeeze(-1)
                reward = (sampled - greedy).float()
                loss = -(reward * log_probs.gather(-1, sampled[:, None]).squeeze(-1)).mean()
                optimizer.zero_grad()
                loss.backward()
                guarded_step(optimizer, model.parameters())
                run.log(reward=reward.mean())
                if run.due("3 steps"):
                    with run.evaluating(model), torch.no_grad():
                        score = run.report([("score", model(torch.randn(2, 4)).mean())])["score"]
                    best = run.is_best("score", score)
                    run.save(best, lambda folder, n=run.step: (folder / "n").write_text(str(n)))
        return model.state_dict()
