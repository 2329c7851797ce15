"""Each family of networks and each way of pruning as a user starts it: what is trained, pruned and left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prunelab.mask import MASK_SUFFIX
from prunelab.mask.files import load_state
from smp_caption import train
from smp_caption.captioner import Captioner
from smp_caption.config import PRUNE_TYPES
from testing.mistakes import Fails

from .conftest import EIGHT_STEPS

pytestmark = pytest.mark.tiny

FAMILIES = ("up_down", "transformer", "ort", "acort")
TARGET = 0.6
TWO_EPOCHS = ("--max_epochs", "2", "--save_checkpoint_every", "3")
METHODS = [method for method in PRUNE_TYPES if method != "supermask"]
TAKE_TURNS = [(method, FAMILIES[i % len(FAMILIES)]) for i, method in enumerate(METHODS)]
ALL = [(method, family) for method in METHODS for family in FAMILIES]


def state(run: Path, name: str = "last") -> dict[str, Tensor]:
    return dict(load_state(run / name / "model.safetensors")[0])


def masks_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.endswith(MASK_SUFFIX)}


def values(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def method_words(method: str) -> tuple[str, ...]:
    target = ("--prune_sparsity_target", str(TARGET), "--prune_gradual_frequency", "1")
    return ("--prune_type", method, *target, "--prune_snip_grad_accum", "2")


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_trains_two_epochs_validates_and_leaves_a_model_that_captions(
    family: str, pruned: bool, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    run = tmp_path / "run"
    train.main(command(run, *TWO_EPOCHS, model=family, pruned=pruned))
    losses = values(run, "train/caption_loss" if pruned else "train/loss")
    assert len(losses) == 6
    assert sum(losses[3:]) < sum(losses[:3])
    assert len(values(run, "val/CIDEr")) == 2
    assert len(values(run, "test/CIDEr")) == 1
    captioner = Captioner.from_pretrained(run / ("pruned" if pruned else "best"))
    assert captioner.config.caption_model.endswith("_prune") is False
    ids = json.loads(next((run / "test_beam_2").glob("caption_*.json")).read_text())
    assert [entry["image_id"] for entry in ids] == [17, 18, 19, 20, 21]
    # Of layers that are shared each has one group of moments, whatever number of depths it stands at.
    named = [name for name, _ in captioner.model.named_parameters()]
    if family == "acort":
        assert any(".layers.0." in name for name in named)
        assert not any(".layers.1." in name for name in named)
    # Before the first step the weights were those in init/, in the dense architecture.
    first = Captioner.from_pretrained(run / "init")
    assert [name for name, _ in first.model.named_parameters()] == named


@pytest.mark.parametrize(
    ("method", "family"),
    [*TAKE_TURNS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ALL if pair not in TAKE_TURNS)],
)
def test_each_way_of_pruning_ends_at_its_sparsity_with_exports_that_hold_the_zeros(
    method: str,
    family: str,
    tmp_path: Path,
    command: Callable[..., list[str]],
    begun: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, source = tmp_path / "run", None
    words = method_words(method)
    if method in ("mask_freeze", "lottery_mask_freeze"):
        source = begun("gradual", family)
    elif method.startswith(("mag_", "lottery")) and "grad" not in method:
        source = begun("dense", family)
    if source is not None:
        words = (*words, "--start_from", str(source))
    capsys.readouterr()
    train.main(command(run, *EIGHT_STEPS, *words, model=family, pruned=True))
    said = capsys.readouterr().out
    last = state(run)
    masks = masks_of(last)
    size = sum(mask.numel() for mask in masks.values())
    zeros = sum(int((mask == 0).sum()) for mask in masks.values())
    # Uniform pruning rounds down in each tensor.
    assert TARGET * size - len(masks) <= zeros <= TARGET * size + 1
    assert values(run, "prune/sparsity/all")[-1] == pytest.approx(zeros / size)
    best = state(run, "best")
    dense = state(run, "pruned")
    for name, mask in masks_of(best).items():
        weight = name.removesuffix(MASK_SUFFIX)
        assert torch.equal(dense[weight], best[weight] * mask)
    assert not masks_of(dense)
    assert len(values(run, "test/CIDEr")) == 1
    assert "sparsity_loss/loss" not in (run / "metrics.jsonl").read_text()
    check_beginning(method, run, source, said)


def check_beginning(method: str, run: Path, source: Path | None, said: str) -> None:
    """Masks that are made before training never change; weights began where the method says."""
    sparsities = values(run, "prune/sparsity/all")
    if "grad" in method:
        assert sparsities[0] == 0
        assert sparsities == sorted(sparsities)
        return
    assert set(sparsities) == {sparsities[-1]}
    assert f"prune_type {method}: " in said
    if source is None:
        assert "gradients of 2 batches rank the weights" in said
        return
    given, masks = state(source, "best"), masks_of(state(run))
    if masks_of(given):
        assert all(torch.equal(masks[name], value) for name, value in masks_of(given).items())
    began = state(run, "init")
    wanted = state(source, "init") if method.startswith("lottery") else given
    assert all(torch.equal(value, wanted[name]) for name, value in began.items())
    if method.endswith("_uniform"):
        for name, mask in masks.items():
            size = given[name.removesuffix(MASK_SUFFIX)].abs()
            if mask.any() and not mask.all():
                assert float(size[mask == 0].max()) <= float(size[mask == 1].min())


def test_pruning_by_schedule_has_masks_anew_at_its_steps_and_says_how_sparse_it_is(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    run = tmp_path / "run"
    train.main(command(run, *EIGHT_STEPS, *method_words("mag_grad_blind"), model="ort", pruned=True))
    sparsities = values(run, "prune/sparsity/all")
    # Steps 2 to 4, where s = target - target (1 - p)^3; each step is logged once its masks are there.
    assert sparsities[:2] == [0, 0]
    assert sparsities[2] == pytest.approx(TARGET * (1 - 0.5**3), abs=1e-3)
    assert sparsities[3:] == pytest.approx([TARGET] * 5, abs=1e-3)


@pytest.mark.parametrize("method", ["mag_blind", "mag_uniform", "mag_dist"])
def test_pruning_fresh_weights_once_is_warned_of(
    method: str, tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*method_words(method), "--max-steps", "1", "--logging_level", "WARNING")
    train.main(command(tmp_path / "run", *words, pruned=True))
    assert f"warning: prune_type {method} prunes fresh weights" in capsys.readouterr().err


def test_a_run_that_lacks_what_its_pruning_needs_is_refused(
    tmp_path: Path, command: Callable[..., list[str]], begun: Callable[..., Path], fails: Fails
) -> None:
    dense, run = begun("dense", "up_down"), tmp_path / "run"
    for method, extra, said in (
        ("lottery_mag_blind", (), "prune_type lottery_mag_blind needs start_from"),
        ("lottery_mask_freeze", (), "prune_type lottery_mask_freeze needs start_from"),
        ("mask_freeze", (), "prune_type mask_freeze needs start_from"),
        ("mask_freeze", ("--start_from", str(dense)), "best: holds no masks, which prune_type mask_freeze"),
        (
            "lottery_mag_uniform",
            ("--start_from", str(dense / "last")),
            "last is no folder of a run with init or model_init.pth, the first weights that",
        ),
        ("mag_grad_uniform", ("--prune_gradual_frequency", "1000"), "has no room for an interval of 1000 st"),
        ("snip", ("--prune_snip_grad_accum", "99"), "prune_snip_grad_accum is 99: expected at most"),
        ("snips", (), "prune_type"),
    ):
        fails(train.main, command(run, *EIGHT_STEPS, *method_words(method), *extra, pruned=True), said)
    assert not list(run.glob("checkpoints/*"))
