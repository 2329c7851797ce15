"""What two gloo processes do for `test_dist.py`: started once, each rank writes what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expansionnet import steps, train
from expansionnet.config import Config, ModelConfig, OptimConfig, QuirkConfig, ScstConfig
from expansionnet.learning.reward import Reward
from expansionnet.learning.schedules import make_schedule
from expansionnet.model import build
from expansionnet.options import TestOptions
from expansionnet.test import test
from expansionnet.words.vocabulary import Vocabulary
from prunelab import dist
from testing.ranks import flat, share, work

PICTURES, TOKENS, LONGEST, STEPS, SAMPLES = 4, 3, 7, 5, 3
CAPTIONS = [["a b c d e", "a b c e"], ["b c f g", "b f g"], ["c d h a", "d h a b"], ["e f a", "f a g h"]]
WORDS = Vocabulary.from_captions([raw for image in CAPTIONS for raw in image], min_occurrences=1)


def global_batches() -> list[dict[str, Any]]:
    """Batches of four pictures with captions of different lengths, in double precision."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(STEPS):
        tokens = torch.full((PICTURES, LONGEST), WORDS.pad)
        lengths = torch.randint(4, LONGEST + 1, (PICTURES,), generator=generator)
        for row, length in zip(tokens, lengths.tolist(), strict=True):
            row[0], row[length - 1] = WORDS.sos, WORDS.eos
            row[1 : length - 1] = torch.randint(4, len(WORDS), (length - 2,), generator=generator)
        made.append(
            {
                "x": torch.randn(PICTURES, TOKENS, 6, generator=generator, dtype=torch.float64),
                "pads": torch.zeros(PICTURES, dtype=torch.int64),
                "tokens": tokens,
                "token_pads": LONGEST - lengths,
                "indices": torch.randperm(PICTURES, generator=generator).tolist(),
                "drawn": torch.randint(4, len(WORDS), (PICTURES, SAMPLES, LONGEST), generator=generator),
            }
        )
    return made


def histories(kind: str, rank: int = 0, world: int = 1) -> Tensor:
    """All weights after each of some micro-batches, without dropout, (steps, weights)."""
    cfg = Config(
        model=ModelConfig(
            is_end_to_end=False,
            model_dim=8,
            N_enc=1,
            N_dec=1,
            ff=8,
            num_heads=2,
            num_exp_enc_list=(2, 3),
            num_exp_dec=2,
            img_feature_dim=6,
            max_seq_len=12,
            vocab_size=len(WORDS),
            **dict.fromkeys(("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other"), 0.0),
        ),
        optim=OptimConfig(optim_type="adam", lr=0.01, warmup_iters=1, num_accum=2, num_epochs=1),
        scst=ScstConfig(reinforce=kind == "rf", num_samples=SAMPLES, scst_max_len=LONGEST),
        quirks=QuirkConfig.of("fixed"),
    )
    torch.manual_seed(0)
    model = build(cfg.model).double().train()
    optimizer = steps.make_optimizer(model, cfg.optim)
    updates = steps.Updates(optimizer, make_schedule(optimizer, cfg.optim, STEPS), cfg, STEPS)
    reward = Reward.from_references(CAPTIONS, end=True)
    history = []
    for it, batch in enumerate(global_batches()):
        mine = {name: share(values, rank, world) for name, values in batch.items()}
        if kind == "xe":
            loss = steps.xe_step(model, mine, cfg, WORDS)
        else:
            place = iter(range(LONGEST))

            def given(_: Tensor, rows: Tensor, drawn: Tensor = mine["drawn"], place: Any = place) -> Tensor:
                return drawn.flatten(0, 1)[rows, next(place)]

            loss = steps.scst_step(model, mine, cfg, WORDS, reward, draw=given)
        updates.backward(loss.value, it)
        history.append(flat(model))
    return torch.stack(history)


def runs(folder: Path, command: dict[str, list[str]], found: dict[str, Tensor]) -> None:
    """Whole runs through the entry; the weights that this rank has after each step."""
    backward = steps.Updates.backward
    history: list[Tensor] = []
    shares: list[int] = []

    def watched(self: steps.Updates, loss: Tensor, it: int) -> Any:
        values = backward(self, loss, it)
        history.append(torch.cat([p.detach().reshape(-1) for p in self.optimizer.param_groups[0]["params"]]))
        return values

    step = {name: getattr(steps, name) for name in ("xe_step", "scst_step")}

    def counted(name: str) -> Any:
        def count(model: nn.Module, batch: Any, *rest: Any) -> Any:
            shares.extend(batch["indices"])
            return step[name](model, batch, *rest)

        return count

    steps.Updates.backward = watched  # type: ignore[method-assign]
    for name in step:
        setattr(steps, name, counted(name))
    for kind, words in command.items():
        history.clear()
        shares.clear()
        train.main([*words, "--output", str(folder / kind)])
        found[f"{kind}/history"] = torch.stack(history)
        found[f"{kind}/pictures"] = torch.tensor(shares)
        found[f"{kind}/random"] = torch.rand(1)
        history.clear()
        train.main([*words, "--output", str(folder / f"{kind}_twice"), "--max-steps", "1"])
        train.main([*words, "--output", str(folder / f"{kind}_twice"), "--resume"])
        found[f"{kind}/twice"] = torch.stack(history)
    steps.Updates.backward = backward  # type: ignore[method-assign]
    for name, function in step.items():
        setattr(steps, name, function)


def find(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    commands = json.loads((folder / "command.json").read_text())
    runs(folder, commands, found)
    for kind in ("xe", "rf"):
        found[f"{kind}/steps"] = histories(kind, dist.rank(), dist.world_size())
    scores = test(TestOptions(save_model_path=str(folder / "xe"), output=str(folder / "scored")))
    found["scores"] = torch.tensor(list(scores.values()), dtype=torch.float64)
    return found


if __name__ == "__main__":
    work(find)
