"""Google's weights, put into the network, against the recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apt_vit.files.npz import load_npz, read_npz
from apt_vit.files.weights import POSITIONS, Loaded
from apt_vit.model import VisionTransformer, build
from apt_vit.tokens import passes
from apt_vit.tokens.rules import Rule
from testing.parity import Folder, of_kind

from .google_files import arrays_of
from .recorded import model_config

# Tolerances are those of the folders' READMEs.
SUM = 1e-4
RESIZED = 1e-6


def filled(folder: Folder, scratch: Path) -> tuple[VisionTransformer, Loaded]:
    """The network as it was recorded: with the recorded agents, and google's file put into it."""
    model = build(model_config(folder.facts), fresh=False).eval()
    model.load_state_dict(folder.weights("agents.bin"), strict=False)
    stored = folder.find("google.npz")
    file = stored[0] if stored else scratch / "google.npz"
    if not stored:
        np.savez(file, **arrays_of(folder))  # pyright: ignore[reportArgumentType]
    return model, load_npz(model, file, zero_head=folder.facts["zero_head"], edge_zeros=True)


def assert_as_checked(value: Tensor, check: dict[str, Any], name: str) -> None:
    """A weight has the recorded shape, sums, and first and last values."""
    assert list(value.shape) == check["shape"], name
    wide, flat = value.double(), value.flatten()
    assert wide.sum().item() == pytest.approx(check["sum"], abs=SUM, rel=0), name
    assert wide.abs().sum().item() == pytest.approx(check["abs_sum"], abs=SUM, rel=0), name
    close = RESIZED if name == POSITIONS else 0
    for end, found in (("first", flat[: len(check["first"])]), ("last", flat[-len(check["last"]) :])):
        assert found.tolist() == pytest.approx(check[end], abs=close, rel=0), name


@pytest.mark.parity
@of_kind("npz_convert", "npz_convert_hybrid", "npz_convert_keep_head")
def test_weights_lines_and_logits_are_the_recorded_ones(folder: Folder, tmp_path: Path) -> None:
    model, loaded = filled(folder, tmp_path)
    expected, state = folder.json("expected.json"), model.state_dict()

    assert "".join(f"{line}\n" for line in loaded.printed) == expected["printed"]
    assert len(loaded.logged) == len(loaded.printed)
    assert set(state) == set(expected["checks"])
    for name, check in expected["checks"].items():
        assert_as_checked(state[name], check, name)
    if folder.find("expected_state_dict.bin"):
        recorded = folder.weights("expected_state_dict.bin")
        assert list(state) == list(recorded)
        for name, value in recorded.items():
            close = RESIZED if name == POSITIONS else 0
            torch.testing.assert_close(state[name], value, atol=close, rtol=0)

    arrays, rule = folder.arrays("data.npz"), Rule(threshold=folder.facts["threshold"])
    close = {"atol": 1e-4, "rtol": 1e-4} if model.cfg.resnet else {"atol": 1e-5, "rtol": 1e-4}
    with torch.no_grad():
        pruned = passes.masked(model, arrays["x"], folder.facts["clip_layer_id"], rule)
        torch.testing.assert_close(passes.plain(model, arrays["x"]), arrays["stream0_logits"], **close)
    torch.testing.assert_close(pruned.logits, arrays["stream1_logits"], **close)


@pytest.mark.parity
@of_kind("npz_convert", "npz_convert_hybrid", "npz_convert_keep_head")
def test_keys_without_a_place_are_told_and_stored_files_follow_the_recipe(
    folder: Folder, tmp_path: Path
) -> None:
    _, loaded = filled(folder, tmp_path)
    made = arrays_of(folder)
    strange = {name for name in made if name.startswith("pre_logits/")}
    heads = {name for name in made if name.startswith("head/")} if folder.facts["zero_head"] else set()
    assert set(loaded.unused) == strange | heads
    for file in folder.find("google.npz"):
        stored = read_npz(file)
        assert stored.keys() == made.keys()
        for name, array in stored.items():
            np.testing.assert_array_equal(array, made[name], name)
