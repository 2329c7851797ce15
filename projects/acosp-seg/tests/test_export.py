"""``export``: a compact folder, the original's file, an ONNX file; what does not go is said in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from acosp import SoftTopKPruner
from acosp.inject import soft_to_hard_k
from acosp_seg.config import Config, DataConfig, ModelConfig, TestConfig
from acosp_seg.export import main
from acosp_seg.loading import load
from acosp_seg.model import build
from acosp_seg.segmenter import Segmenter

SIZE = 33


@pytest.fixture(params=["segnet", "psp"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model folder of a network with hard masks."""
    torch.manual_seed(0)
    arch = request.param
    cfg = Config(
        model=ModelConfig(arch=arch, layers=50 if arch == "psp" else None, classes=3, width=8, bins=(1, 2)),
        data=DataConfig(dataset="folder", train_h=SIZE, train_w=SIZE, names_path="", colors_path=""),
        test=TestConfig(base_size=48, test_h=SIZE, test_w=SIZE),
    )
    model = build(cfg.model)
    SoftTopKPruner(0.5, 1, min_remaining_elements=3).configure_model(model)
    soft_to_hard_k(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.3)
    return Segmenter(model=model.eval(), config=cfg).save_pretrained(tmp_path / "model")


def logits(path: Path, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return load(path).model(x)


def test_a_compact_folder_is_written_beside_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(folder)])

    target = folder.with_name("model-compact")
    said = capsys.readouterr().out
    assert "x fewer" in said
    assert f"written: {target}" in said
    assert load(target).layout == "compact"
    x = torch.randn(1, 3, SIZE, 41)
    expected = logits(folder, x)
    assert (logits(target, x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_an_onnx_file_agrees_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    main([str(folder), "--format", "onnx", "--height", "41", "--width", "49"])

    target = folder.with_name("model.onnx")
    assert "within" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    x = torch.randn(3, 3, 41, 49)
    found = session.run(["logits"], {"picture": x.numpy()})[0]
    np.testing.assert_allclose(found, logits(folder, x).numpy(), atol=1e-4)


def test_the_original_file_holds_the_same_network(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "sub" / "train_epoch_1.pth"
    main([str(folder), "--format", "original", "--output", str(target)])

    x = torch.randn(1, 3, SIZE, SIZE)
    content = torch.load(target, weights_only=True)
    assert all(name.startswith("module.") for name in content["state_dict"])
    again = load(folder).model
    again.load_state_dict({k.removeprefix("module."): v for k, v in content["state_dict"].items()})
    with torch.no_grad():
        assert torch.equal(again(x), logits(folder, x))


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(folder), "--dry-run"])
    assert "would be written" in capsys.readouterr().out
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("folder", ["psp"], indirect=True)
def test_what_does_not_go_is_said_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(folder)])
    small = folder.with_name("model-compact")
    for arguments, message in [
        ([str(folder / "nothing")], "no model there"),
        ([str(folder), "--output", str(folder)], "not written over the model itself"),
        ([str(small), "--format", "original"], "the network is compact, expected dense or masked"),
        ([str(folder), "--format", "onnx", "--height", "40"], "8n + 1"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]
