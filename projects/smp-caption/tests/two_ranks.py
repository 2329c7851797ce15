"""What two gloo processes do for `test_dist.py`: started once, each rank writes what it found."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunelab import dist
from prunelab.caption.frequency import DocumentFrequency
from prunelab.mask import draw_once, masks, use_samples
from prunelab.mask.sparsity import SparsityLoss
from smp_caption import steps, train
from smp_caption.captioner import Captioner
from smp_caption.config import Config, ModelConfig, OptimConfig, PruneConfig, ScstConfig
from smp_caption.data import open_data
from smp_caption.evaluate import decode_options, make_evaluator
from smp_caption.files.original import run_config
from smp_caption.learning.scst import SelfCritical
from smp_caption.model import build
from smp_caption.pruner import Pruner, make_pruner, mask_spec
from smp_caption.tokenizer import Tokenizer, train_sentencepiece
from testing.ranks import flat, share, work

PICTURES, CAPTIONS, TOKENS, REGIONS, STEPS = 4, 2, 6, 5, 4
SIZES = {
    **{"rnn_size": 7, "input_encoding_size": 6, "att_hid_size": 5, "att_feat_size": 8, "fc_feat_size": 8},
    **{"d_model": 8, "dim_feedforward": 10, "num_layers": 2, "num_heads": 2, "max_seq_length": TOKENS},
    **{"drop_prob_lm": 0.0, "drop_prob_src": 0.0, "drop_prob_layer": 0.0},
}
NAMES = {
    "dense": "up_down_lstm",
    "pruned": "relation_transformer_prune",
    "snip": "relation_transformer_prune",
    "gradual": "up_down_lstm_prune",
    "rewards": "relation_transformer",
}
METHODS = {"pruned": "supermask", "snip": "snip", "gradual": "mag_grad_blind"}
TWICE = ("pruned", "rewards")
"""Kinds of runs that are stopped and go on."""
WORDS = ("a", "red", "cat", "dog", "sits", "runs", "here", "away")


class FixedSamples(Pruner):
    """A pruner whose masks of a step are drawn from the step's number, on every rank the same."""

    step = 0

    def drawing(self) -> AbstractContextManager[None]:
        generator = torch.Generator().manual_seed(self.step)
        given = {n: torch.randint(0, 2, m.shape, generator=generator) for n, m in masks(self.model).items()}
        return use_samples(self.model, given)

    def loss(self, step: int) -> SparsityLoss:
        self.step = step + 1
        return super().loss(step)


def global_batches() -> list[dict[str, Any]]:
    """Batches of pictures whose captions are not equally long: ranks have different numbers of tokens."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(STEPS):
        att = torch.randn(PICTURES, REGIONS, 8, generator=generator, dtype=torch.float64)
        corners = torch.rand(PICTURES, REGIONS, 2, 2, generator=generator, dtype=torch.float64)
        lengths = torch.randint(2, TOKENS, (PICTURES * CAPTIONS, 1), generator=generator)
        ids = torch.randint(4, 12, (PICTURES * CAPTIONS, TOKENS), generator=generator)
        places = torch.arange(TOKENS)
        ids = ids.where(places < lengths, 0).where(places != lengths, 3).where(places > 0, 2)
        made.append(
            {
                "att_feats": att,
                "att_masks": torch.ones(PICTURES, REGIONS, dtype=torch.float64),
                "fc_feats": att.mean(1),
                "boxes": torch.cat([corners.amin(2), corners.amax(2)], dim=2),
                "seqs": ids,
                "masks": (places <= lengths).double(),
                "gts": [
                    [" ".join(WORDS[i - 4] for i in ids[CAPTIONS * n] if i > 3)] for n in range(PICTURES)
                ],
            }
        )
    return made


def rewards_of(cfg: Config, folder: Path) -> SelfCritical:
    """Rewards of captions of `WORDS`."""
    file = folder / "word.model"
    file.write_bytes(train_sentencepiece([*WORDS, " ".join(WORDS)], model_type="word", vocab_size=12))
    captions = [[[WORDS[i], WORDS[i + 1]], [WORDS[i]]] for i in range(7)]
    return SelfCritical(cfg, DocumentFrequency.from_captions(captions), Tokenizer(file))


def histories(kind: str, folder: Path, rank: int = 0, world: int = 1) -> Tensor:
    """All weights after each of some steps in double precision, without dropout, (steps, weights).

    Samples of rewards are those of beam search, for which no random number is drawn.
    """
    cfg = Config(
        model=ModelConfig(caption_model=NAMES[kind], vocab_size=12, **SIZES),
        optim=OptimConfig(
            lr_scheduler="cosine", learning_rate=0.01, optim_epsilon=1e-3, grad_clip=0.05, max_epochs=STEPS
        ),
        prune=PruneConfig(
            prune_type=METHODS.get(kind),
            prune_sparsity_target=0.5,
            prune_snip_grad_accum=2,
            prune_gradual_frequency=1,
        ),
        scst=ScstConfig(scst_sample="beam_search", scst_num_samples=3),
    )
    torch.manual_seed(0)
    model = build(cfg.model, mask_spec(cfg.model, cfg.prune)).double().train()
    batches = [{name: share(v, rank, world) for name, v in batch.items()} for batch in global_batches()]
    pruner = FixedSamples(model, cfg, STEPS) if kind == "pruned" else make_pruner(model, cfg, STEPS)
    if pruner is not None:
        pruner.prepare(batches, lambda batch: steps.cross_entropy(model, batch, cfg))
    rewards = rewards_of(cfg, folder) if kind == "rewards" else None
    optimizer = steps.make_optimizer(model, cfg.optim, cfg.prune)
    schedule = steps.make_schedule(optimizer, cfg, STEPS)
    history = []
    for update, mine in enumerate(batches):
        step = {"epoch": 0, "update": update, "pruner": pruner, "rewards": rewards}
        steps.train_step(model, optimizer, schedule, mine, cfg, **step)
        history.append(flat(model))
    return torch.stack(history)


def runs(folder: Path, command: dict[str, list[str]], found: dict[str, Tensor]) -> None:
    """Whole runs through the entry; the weights that this rank has after each step."""
    step = steps.train_step
    history: list[Tensor] = []
    shares: list[int] = []

    def watched(model: nn.Module, optimizer: Any, schedule: Any, batch: Any, *rest: Any, **more: Any) -> Any:
        values = step(model, optimizer, schedule, batch, *rest, **more)
        history.append(flat(model))
        shares.extend(batch["image_ids"])
        return values

    steps.train_step = watched
    for kind, words in command.items():
        history.clear()
        shares.clear()
        train.main([*words, "--output", str(folder / kind)])
        found[f"{kind}/history"] = torch.stack(history)
        found[f"{kind}/pictures"] = torch.tensor(shares)
        found[f"{kind}/random"] = torch.rand(1)
        if kind not in TWICE:
            continue
        history.clear()
        train.main([*words, "--output", str(folder / f"{kind}_twice"), "--max-steps", "2"])
        train.main([*words, "--output", str(folder / f"{kind}_twice"), "--resume"])
        found[f"{kind}/twice"] = torch.stack(history)
    steps.train_step = step
    train.main([*command["dense"], "--output", str(folder / "fake"), "--fake-data", "--max-steps", "1"])


def evaluation(run: Path, found: dict[str, Tensor]) -> None:
    """Score one model with both processes."""
    captioner, cfg = Captioner.from_pretrained(run / "best"), run_config(run)
    data = open_data(cfg)
    loader = data.loader("test", captioner.tokenizer, rank=dist.rank(), world_size=dist.world_size())
    evaluator = make_evaluator(
        "test",
        loader,
        data.references("test"),
        captioner.tokenizer,
        decode_options(captioner.config, cfg.decode, 2),
        device=torch.device("cpu"),
    )
    with draw_once(captioner.model):
        scores = dict(evaluator.run(captioner.model))
    found["evaluation/scores"] = torch.tensor(list(scores.values()), dtype=torch.float64)
    found["evaluation/pictures"] = torch.tensor(sorted(evaluator.predictions))
    found["evaluation/mine"] = torch.tensor([i for batch in loader for i in batch["image_ids"]])


def find(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    runs(folder, json.loads((folder / "command.json").read_text()), found)
    own = folder / f"words{dist.rank()}"
    own.mkdir()
    for kind in NAMES:
        found[f"{kind}/steps"] = histories(kind, own, dist.rank(), dist.world_size())
    evaluation(folder / "dense", found)
    return found


if __name__ == "__main__":
    work(find)
