"""Networks in other formats: ONNX that agrees, slim folders, the original's arrays; the table of forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from channel_prune.classifier import Classifier
from channel_prune.config import NetConfig
from channel_prune.export import SOFTMAX, example_of, export, main, slimmed, times
from channel_prune.files.loading import load_network
from channel_prune.files.saved import Saved
from channel_prune.model import build
from channel_prune.options import ExportOptions
from channel_prune.preprocess import Preprocess
from channel_prune.slim import masked, slim
from prunelab.errors import UserError

NET = NetConfig(width_divisor=4, nb_classes=3)
FORMS = ("full", "masked", "inputs picked", "slim", "slim, folded")
KEPT = {"stages.0.0.conv2": [0, 2], "stages.1.0.conv1": [1], "stages.1.0.shortcut": [1, 3]}


def saved_network(net: NetConfig = NET) -> Saved:
    """A network with some channels of zeros."""
    torch.manual_seed(0)
    model = build(net)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.3)
    if net == NET:
        model = masked(model, KEPT)
    side = net.image_size
    return Saved(
        model=model.eval(),
        net=net,
        preprocess=Preprocess(side=side, shorter=side, recipe="small"),
        classes=("cat", "dog", "emu"),
        dataset="pets",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved_network().save(tmp_path / "last")


def run_onnx(file: Path, x: torch.Tensor) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, {"picture": x.numpy()}), strict=True))


def test_onnx_is_slim_and_takes_any_number_and_size_of_pictures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = export(ExportOptions(model=str(folder)))

    assert file == folder.parent / "last.onnx"
    assert "within" in capsys.readouterr().out
    x = torch.randn(3, 3, 40, 36)
    found = run_onnx(file, x)
    with torch.no_grad():
        logits = Saved.read(folder).model(x)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(found[SOFTMAX], logits.softmax(1), atol=1e-5)
    assert file.stat().st_size > 1000


def test_onnx_of_the_masked_network_holds_its_zeros(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    small = export(ExportOptions(model=str(folder), image_size=32))
    file = export(ExportOptions(model=str(folder), format="onnx-masked", image_size=32))

    assert file == folder.parent / "last-masked.onnx"
    assert capsys.readouterr().out.count("within") == 2  # of the network, in onnxruntime
    x = torch.randn(2, 3, 32, 32)
    np.testing.assert_allclose(run_onnx(file, x)["logits"], run_onnx(small, x)["logits"], atol=1e-4)
    shapes = [
        {tuple(one.dims) for one in onnx.load(path).graph.initializer if len(one.dims) == 4}
        for path in (file, small)
    ]
    whole = {
        tuple(value.shape) for value in Saved.read(folder).model.state_dict().values() if value.dim() == 4
    }
    assert shapes[0] == whole != shapes[1]


def test_a_slim_network_has_no_masked_form(folder: Path) -> None:
    small = export(ExportOptions(model=str(folder), format="slim"))
    with pytest.raises(UserError, match="last-slim: slim already, expected a network with channels of zeros"):
        export(ExportOptions(model=str(small), format="onnx-masked"))


def test_a_slim_folder_holds_less_and_answers_the_same(folder: Path) -> None:
    small = export(ExportOptions(model=str(folder), format="slim", round_to=2))

    assert small == folder.parent / "last-slim"
    assert (small / "model.safetensors").stat().st_size < (folder / "model.safetensors").stat().st_size
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    one, other = (Classifier.from_pretrained(spot).probabilities([picture]) for spot in (small, folder))
    torch.testing.assert_close(one, other)


def test_the_originals_arrays_load_again_export_load(folder: Path) -> None:
    file = export(ExportOptions(model=str(folder), format="original"))

    with np.load(file) as arrays:
        assert "pruned_model/resnet_model/conv2d/kernel" in arrays.files
    again = load_network(file, NET)
    expected = Saved.read(folder).model.state_dict()
    found = again.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items() if value.dim())


def test_the_table_has_every_form_and_says_how_far_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder), "--format=slim", "--nb_repts=2", "--nb_repts_warmup=1", "--enbl_fake_prune"]
    main([*words, "--fake_prune_ratio=0.7"])

    lines = [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line in FORMS] == list(FORMS)


def test_forms_of_a_network_agree_and_the_slim_one_costs_least() -> None:
    saved = saved_network()
    example = example_of(saved)
    small = slim(saved.model, KEPT, example)

    table = times(saved, KEPT, small, example, warmup=1, calls=2)

    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert tuple(rows) == FORMS
    assert rows["full"]["max abs difference"] is None
    assert all(rows[name]["max abs difference"] < 1e-4 for name in FORMS[1:])
    assert rows["slim"]["MACs"] < rows["inputs picked"]["MACs"] < rows["masked"]["MACs"]
    assert rows["slim"]["weights"] < rows["inputs picked"]["weights"]
    alone = times(slimmed(saved, small), {}, None, example, warmup=0, calls=1)
    assert [row[0] for row in alone.rows] == ["full", "slim", "slim, folded"]


@pytest.mark.slow
def test_a_detector_is_exported_with_its_two_outputs(tmp_path: Path) -> None:
    net = NetConfig(name="ssd_vgg16", nb_classes=3, image_size=128, width_divisor=32)
    saved = saved_network(net)
    saved.preprocess = Preprocess(side=128, shorter=128, recipe="whole")
    folder = saved.save(tmp_path / "ssd")

    file = export(ExportOptions(model=str(folder)))

    x = torch.randn(2, 3, 128, 128)
    found = run_onnx(file, x)
    with torch.no_grad():
        expected = saved.model(x)
    for name in ("loc", "cls"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_a_model_is_not_written_over_and_a_slim_one_has_no_original_format(folder: Path) -> None:
    with pytest.raises(UserError, match="not written over the model itself"):
        export(ExportOptions(model=str(folder), output=str(folder)))
    small = export(ExportOptions(model=str(folder), format="slim"))
    with pytest.raises(UserError, match="the network is slim, expected a full one"):
        export(ExportOptions(model=str(small), format="original"))
    with pytest.raises(UserError, match="slim already"):
        export(ExportOptions(model=str(small), enbl_fake_prune=True))
    assert export(ExportOptions(model=str(small), dry_run=True)) == small.with_name("last-slim.onnx")
