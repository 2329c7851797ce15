"""Sizes of files: figures that belong together, of networks that are small here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prunelab.mask import MASK_SUFFIX, masks
from smp_caption import sizes
from smp_caption.config import ModelConfig
from smp_caption.model import build

from .made import SIZES

CASES = {case.caption_model: case for case in sizes.CASES}


def small(caption_model: str) -> ModelConfig:
    return ModelConfig(**SIZES | {"caption_model": caption_model, "vocab_size": 900, "d_model": 64})


@pytest.mark.parametrize("name", list(CASES))
def test_bytes_fit_what_is_written(name: str, tmp_path: Path) -> None:
    config, case = small(name), CASES[name]
    with torch.device("meta"):
        count = sum(mask.numel() for mask in masks(build(config)).values())
    state, masked = sizes.drawn_state(config, case.sparsity)
    assert masked == {name.removesuffix(MASK_SUFFIX) for name in masks(build(config))}
    single, half = sizes.measure(case, config, tmp_path)
    assert single.nonzeros == sum(int(state[key].count_nonzero()) for key in masked)
    assert single.nonzeros == pytest.approx((1 - case.sparsity) * count, rel=0.15)
    assert (single.precision, half.precision) == ("float32", "float16")
    assert single.dense == 2 * half.dense == sum(4 * value.numel() for value in state.values())
    # Two positions of 8 bytes and the value.
    assert single.coo - half.coo == pytest.approx(
        2 * single.nonzeros + 2 * (single.dense / 4 - count), rel=0.1
    )
    assert half.packed < single.packed < half.coo < single.coo


def test_rows_and_table_hold_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sizes, "CASES", sizes.CASES[1:2])
    monkeypatch.setattr(sizes, "ModelConfig", lambda caption_model: small(caption_model))
    sizes.main(["--json-table", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["model"], row["precision"], row["published"]) for row in rows] == [
        ("Up-Down", "float32", 9.7),
        ("Up-Down", "float16", 8.7),
    ]
    assert all(row["packed MB"] == row["packed"] / 1e6 for row in rows)
    told = capsys.readouterr().out
    assert all(f"{row['ratio']:.2f}" in told for row in rows)
