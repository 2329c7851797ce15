"""Whole trainings against the original's own loop, recorded update by update."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apt_vit import job, messages
from apt_vit.config import Config, DataConfig, OptimConfig, PruneConfig, QuirkConfig, RunOptions
from apt_vit.files import original
from apt_vit.model import VisionTransformer
from apt_vit.steps import Logs
from apt_vit.train import train
from testing.parity import Folder, of_kind

from .in_order import in_order
from .recorded import model_config

CLOSE = 2e-5
"""Of losses and rewards; the folders' READMEs say these."""
VALIDATION = 1e-4
PARAMETERS = {"atol": 1e-5, "rtol": 1e-3}


def config_of(folder: Folder) -> Config:
    """The recorded run under ``faithful``."""
    facts = folder.facts
    of_run = {name: facts[name] for name in ("name", "seed", "eval_every")}
    of_data = {name: facts[name] for name in ("dataset", "train_batch_size", "eval_batch_size")}
    of_optim = {
        name: facts[name]
        for name in (
            *("gradient_accumulation_steps", "learning_rate", "momentum", "weight_decay", "decay_type"),
            *("warmup_steps", "num_steps", "max_grad_norm"),
        )
    }
    model = model_config(facts)
    return Config(
        model=type(model)(**{**vars(model), "pretrained_dir": str(folder.file("init.bin"))}),
        data=DataConfig(**of_data, num_workers=0, flip=False, validation_share=0.0),
        optim=OptimConfig(**of_optim),
        prune=PruneConfig(threshold=facts["threshold"], reward_dropout="fresh"),
        run=RunOptions(**of_run, preset="faithful", device="cpu", save_every=facts["num_steps"]),
        quirks=QuirkConfig.of("faithful"),
    )


@dataclass
class Seen:
    """What a training did."""

    steps: list[Logs] = field(default_factory=list)
    """Of all micro-batches."""
    fed: list[list[int]] = field(default_factory=list)
    """Of each update: its micro-batches."""
    figures: list[dict[str, float]] = field(default_factory=list)
    """Of each update."""
    parameters: list[dict[str, Tensor]] = field(default_factory=list)
    """After each update."""
    scalars: list[tuple[str, float, int]] = field(default_factory=list)
    """In the order in which they were written to TensorBoard."""
    files: list[tuple[str, int]] = field(default_factory=list)
    """The original's checkpoints: name and update."""
    messages: list[str] = field(default_factory=list)
    printed: str = ""
    folder: Path = Path()
    final: dict[str, Tensor] = field(default_factory=dict)


MADE: dict[Path, Seen] = {}
"""By folder: trainings are made once for all tests."""


@pytest.fixture
def seen(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    if folder.path not in MADE:
        MADE[folder.path] = run(folder, tmp_path_factory.mktemp(folder.path.name))
    return MADE[folder.path]


def run(folder: Folder, spot: Path) -> Seen:
    """Train as it was recorded, and look on."""
    seen, cfg = Seen(), config_of(folder)
    arrays = folder.arrays("data.npz")
    splits = {"train": (arrays["X"], arrays["Y"]), "val": (arrays["VX"], arrays["VY"])}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(spot)
        patch.delenv("PRUNELAB_RUNS", raising=False)
        for watch in (_watch_steps, _watch_files, _watch_messages, _watch_print):
            watch(patch, seen)
        seen.folder = train(cfg, data=in_order(cfg, splits)).resolve()
        seen.scalars = list(_scalars(Path("logs") / cfg.run.name))
    return seen


def _watch_steps(patch: pytest.MonkeyPatch, seen: Seen) -> None:
    step, update = job.Job.step, job.Job.update
    fed: list[int] = []

    def watched_step(self: job.Job, batch: Any) -> Logs:
        fed.append(len(seen.steps))
        seen.steps.append(step(self, batch))
        return seen.steps[-1]

    def watched_update(self: job.Job) -> dict[str, float] | None:
        found = update(self)
        seen.final = state_of(self.model)
        if found is not None:
            seen.fed.append(fed.copy())
            fed.clear()
            seen.figures.append(found)
            seen.parameters.append(seen.final)
        return found

    patch.setattr(job.Job, "step", watched_step)
    patch.setattr(job.Job, "update", watched_update)


def state_of(model: VisionTransformer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _watch_files(patch: pytest.MonkeyPatch, seen: Seen) -> None:
    write = original.write

    def watched(path: Path, *rest: Any) -> Path:
        seen.files.append((Path(path).name, len(seen.figures)))
        return write(path, *rest)

    patch.setattr(original, "write", watched)


def _watch_messages(patch: pytest.MonkeyPatch, seen: Seen) -> None:
    class Kept(logging.StreamHandler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.messages.append(record.getMessage())

    patch.setattr(messages.logging, "StreamHandler", Kept)


def _watch_print(patch: pytest.MonkeyPatch, seen: Seen) -> None:
    def kept(*words: Any, **_: Any) -> None:
        seen.printed += " ".join(map(str, words)) + "\n"

    patch.setattr(messages, "print", kept, raising=False)


def _scalars(folder: Path) -> Iterator[tuple[str, float, int]]:
    """What an event file holds, in its order."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                yield value.tag, value.simple_value, event.step


def flipped(seen: Seen, expected: list[dict[str, Any]]) -> int | None:
    """The update in which rounding flips a label for the first time, if there is one.

    It may do so where the recorded reward is near 0, and what follows is then another training.
    """
    steps = iter(seen.steps)
    for update in expected:
        for micro_batch in update["micro_batches"]:
            logs = next(steps)
            for agent in micro_batch["agent"]:
                ours = logs.agents[agent["layer"]].labels.tolist()
                for label, other, reward in zip(agent["label"], ours, agent["reward"], strict=True):
                    if label != other:
                        assert 0 < abs(reward) < CLOSE, f"label {other}, recorded {label} of reward {reward}"
                        return update["update"]
    return None


@pytest.mark.parity
@of_kind("train_loop_cosine", "train_loop_zero_head")
def test_micro_batches_feed_the_updates_that_they_fed(folder: Folder, seen: Seen) -> None:
    expected = folder.json("expected.json")["updates"]
    assert len(seen.fed) == len(expected)
    for fed, update in zip(seen.fed, expected, strict=True):
        assert len(fed) == len(update["micro_batches"])
    sizes = [m["size"] for update in expected for m in update["micro_batches"]]
    assert [len(logs.p_old) for logs in seen.steps if logs.p_old is not None][: len(sizes)] == sizes


@pytest.mark.parity
@of_kind("train_loop_cosine", "train_loop_zero_head")
def test_losses_actions_rewards_and_labels_are_the_recorded_ones(folder: Folder, seen: Seen) -> None:
    expected = folder.json("expected.json")["updates"]
    stop, steps = flipped(seen, expected), iter(seen.steps)
    for update in expected:
        if stop is not None and update["update"] > stop:
            break
        for micro_batch in update["micro_batches"]:
            logs = next(steps)
            assert logs.plain_loss is not None
            assert logs.p_old is not None
            assert float(logs.plain_loss) == pytest.approx(micro_batch["loss_s0"], abs=CLOSE)
            assert logs.p_old.tolist() == pytest.approx(micro_batch["p_true_old"], abs=CLOSE)
            assert float(logs.loss) == pytest.approx(micro_batch["loss_s1"], abs=CLOSE)
            assert list(logs.agents) == [agent["layer"] for agent in micro_batch["agent"]]
            for agent in micro_batch["agent"]:
                ours = logs.agents[agent["layer"]]
                assert ours.tokens.tolist() == agent["action"]
                assert ours.rewards.tolist() == pytest.approx(agent["reward"], abs=CLOSE)
                torch.testing.assert_close(
                    ours.logits, torch.tensor(agent["clip_logit"]), rtol=CLOSE, atol=CLOSE
                )
                if update["update"] != stop:
                    assert ours.labels.tolist() == agent["label"]
                    assert float(ours.loss) == pytest.approx(agent["loss"], abs=CLOSE)


@pytest.mark.parity
@of_kind("train_loop_cosine", "train_loop_zero_head")
def test_gradient_norms_and_rates_are_the_recorded_ones(folder: Folder, seen: Seen) -> None:
    expected = folder.json("expected.json")["updates"]
    stop = flipped(seen, expected) or len(expected) + 1
    for figures, update in zip(seen.figures, expected, strict=True):
        assert figures["train/lr"] == pytest.approx(update["lr_used"], rel=1e-9, abs=1e-12)
        if update["update"] < stop:
            assert figures["train/gradient_norm"] == pytest.approx(update["grad_norm_before_clip"], rel=1e-3)


@pytest.mark.parity
@of_kind("train_loop_cosine", "train_loop_zero_head")
def test_parameters_after_updates_and_at_the_end_are_the_recorded_ones(folder: Folder, seen: Seen) -> None:
    recorded = folder.json("expected.json")["updates"]
    stop = flipped(seen, recorded) or len(recorded) + 1
    arrays = folder.arrays("data.npz")
    for update in folder.facts["snapshots"]:
        found = {n: v for n, v in arrays.items() if n.startswith(f"after{update}/")}
        assert found
        for name, value in found.items():
            if update < stop:
                ours = seen.parameters[update - 1][name.partition("/")[2]]
                torch.testing.assert_close(ours, value, **PARAMETERS, msg=lambda text, n=name: f"{n}: {text}")
    if stop > len(recorded):
        final = folder.weights("final.bin")
        assert list(final) == list(seen.final)
        for name, value in final.items():
            torch.testing.assert_close(seen.final[name], value, **PARAMETERS)


@pytest.mark.parity
@of_kind("train_loop_cosine", "train_loop_zero_head")
def test_tensorboard_holds_the_recorded_scalars_in_their_order(folder: Folder, seen: Seen) -> None:
    expected = folder.json("expected.json")
    stop = flipped(seen, expected["updates"]) or len(expected["updates"]) + 1
    assert [(tag, step) for tag, _, step in seen.scalars] == [
        (tag, step) for tag, _, step in expected["tensorboard"]
    ]
    for (tag, ours, step), (_, value, _) in zip(seen.scalars, expected["tensorboard"], strict=True):
        if step < stop or tag == "train/lr":
            assert ours == pytest.approx(value, rel=1e-6, abs=CLOSE), (tag, step)


@pytest.mark.parity
@of_kind("train_loop_cosine", "train_loop_zero_head")
def test_messages_files_and_size_are_the_recorded_ones(folder: Folder, seen: Seen) -> None:
    expected = folder.json("expected.json")
    begins = seen.messages.index(expected["log_messages"][0])
    ours = seen.messages[begins:]
    if flipped(seen, expected["updates"]) is None:
        assert len(ours) == len(expected["log_messages"])
        for said, recorded in zip(ours, expected["log_messages"], strict=True):
            assert same_message(said, recorded), (said, recorded)
        saved = [(each["file"], each["at_step"]) for each in expected["checkpoints_saved"]]
        assert seen.files == saved
        for file, _ in saved:
            assert (seen.folder.parent / file).is_file()
    assert seen.printed.split("\n") == expected["params_million"]


def same_message(said: str, recorded: str) -> bool:
    """Whether two messages are the same, but for rounding of a loss."""
    name, colon, value = recorded.partition("Loss: ")
    if not colon:
        return said == recorded
    ours = said.removeprefix(name + colon)
    return abs(float(ours) - float(value)) <= VALIDATION and len(ours) == len(value)


@pytest.mark.parity
@of_kind("train_loop_cosine", "train_loop_zero_head")
def test_validation_finds_the_recorded_accuracies_and_losses(folder: Folder, seen: Seen) -> None:
    expected = folder.json("expected.json")
    stop = flipped(seen, expected["updates"]) or len(expected["updates"]) + 1
    losses = [float(line.partition(": ")[2]) for line in seen.messages if line.startswith("Valid Loss")]
    shares = [float(line.partition(": ")[2]) for line in seen.messages if line.startswith("Valid Accuracy")]
    steps = [int(line.partition(": ")[2]) for line in seen.messages if line.startswith("Global Steps")]
    assert steps == [each["step"] for each in expected["validation"]]
    for loss, share, each in zip(losses, shares, expected["validation"], strict=True):
        if each["step"] < stop:
            assert loss == pytest.approx(each["loss"], abs=VALIDATION)
            assert share == pytest.approx(each["accuracy"], abs=5e-6)
