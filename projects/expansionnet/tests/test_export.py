"""``export``: what is written captions as the model does, and what would not is not kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from expansionnet import decoding, export
from expansionnet.captioner import Captioner, load
from expansionnet.cli import parse_convert2onnx
from expansionnet.files.onnx_beam import OnnxCaptioner
from expansionnet.options import ORIGINAL_OPSET, ExportOptions
from prunelab.config import to_plain
from prunelab.errors import UserError
from testing.mistakes import Fails

from .small import SAID, SWIN, WORDS, captioner, same

WIDE = {"model_dim": 256}
"""A width at which products may go other ways than those of small matrices, where nothing is exported."""
GRAPHS = ("encoder.onnx", "step.onnx")


@pytest.fixture(scope="module")
def model() -> Captioner:
    """A captioner that reads features, of few but wide layers."""
    return captioner(N_dec=1, **WIDE)


@pytest.fixture(scope="module")
def exported(model: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graphs."""
    folder = model.save_pretrained(tmp_path_factory.mktemp("export") / "best")
    return export.export(ExportOptions(model=str(folder)))


def test_graphs_lie_beside_the_model_and_say_what_they_are(model: Captioner, exported: Path) -> None:
    assert exported.name == "best.onnx"
    assert {file.name for file in exported.iterdir()} == {*GRAPHS, "vocabulary.json"}
    for name in GRAPHS:
        graph = onnx.load(exported / name)
        facts = {entry.key: entry.value for entry in graph.metadata_props}
        assert json.loads(facts["model"]) == to_plain(model.config)
        inputs = {entry.name: entry.type.tensor_type for entry in graph.graph.input}
        whole = {key for key, kind in inputs.items() if kind.elem_type == onnx.TensorProto.INT64}
        assert whole == ({"pads"} if name == "encoder.onnx" else {"tokens", "picture", "pads"})


@pytest.mark.parametrize(("count", "tokens", "beams"), [(1, 5, 1), (3, 4, 2), (2, 11, 5)])
def test_captions_and_their_log_probabilities_are_pytorchs(
    model: Captioner, exported: Path, count: int, tokens: int, beams: int
) -> None:
    x = torch.randn(count, tokens, SWIN.width, generator=torch.Generator().manual_seed(count))
    pads = torch.arange(count)
    graphs = OnnxCaptioner(exported, threads=1)
    options = graphs.options(beams)
    found = graphs.search(x, options, pads=pads)
    expected = decoding.search(model.model, x, options, enc_pads=pads)
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-4)
    alone = graphs.search(x[:1], options)
    assert alone.tokens == decoding.search(model.model, x[:1], options).tokens


def test_captions_that_differ_are_no_success(
    model: Captioner, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = OnnxCaptioner(exported, threads=1)
    line = export.compare(model, found, (), 3)
    assert line.startswith("2 captions of noise with 3 beams are PyTorch's, log-probabilities within")
    with pytest.raises(UserError, match="captions of the graphs differ from PyTorch's, expected none"):
        export.compare(captioner(N_dec=1, seed=3, **WIDE), found, (), 3)
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"graphs' captions differ by .*, expected at most -1"):
        export.compare(model, found, (), 3)


def test_the_originals_file_is_written_read_and_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = captioner(end_to_end=True)
    model.save_pretrained(tmp_path / "best")
    export.main([str(tmp_path / "best"), "--format", "original"])
    assert "written" in capsys.readouterr().out
    found = load(tmp_path / "best.pth", **SAID)
    assert same(found.model, model.model)
    said = ["--num_heads", "4", "--num_exp_enc_list", "[3,5]", "--output", str(tmp_path / "x" / "y.pth")]
    export.main([str(tmp_path / "best.pth"), "--format", "original", *said])
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("best.pth", "x/y.pth"))
    assert list(first["model_state_dict"]) == list(second["model_state_dict"])
    for name, value in first["model_state_dict"].items():
        assert torch.equal(second["model_state_dict"][name], value)


def test_a_dry_run_writes_nothing_and_a_model_is_never_written_over(tmp_path: Path, fails: Fails) -> None:
    folder = captioner().save_pretrained(tmp_path / "best")
    export.main([str(folder), "--dry-run"])
    assert list(tmp_path.iterdir()) == [folder]
    fails(export.main, [str(folder), "--output", str(folder)], "not written over the model itself")
    fails(export.main, [str(tmp_path / "no")], "no weights there, expected a model folder")


def test_the_originals_command_means_a_folder_of_graphs() -> None:
    said = ["--load_model_path", "a.pth", "--vocab_path", "b", "--onnx_simplify", "true"]
    options = parse_convert2onnx(said)
    assert (options.model, options.vocab_path) == ("a.pth", "b")
    assert (options.format, options.onnx_simplify) == ("onnx", True)


@pytest.mark.slow
def test_graphs_that_read_pictures_say_the_same_of_a_file_whatever_operators_are_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = captioner(end_to_end=True)
    model.save_pretrained(tmp_path / "best")
    rng = np.random.default_rng(0)
    pictures = [tmp_path / f"{n}.png" for n in range(3)]
    for path in pictures:
        Image.fromarray(rng.integers(256, size=(30, 40, 3), dtype=np.uint8)).save(path)
    names = tuple(map(str, pictures))
    options = ExportOptions(
        model=str(tmp_path / "best"), pictures=names, onnx_simplify=True, onnx_opset=ORIGINAL_OPSET
    )
    folder = export.export(options)
    told = capsys.readouterr().out
    assert "onnx_opset 14 is not written by torch's exporter any more: 18 is" in told
    assert told.count("opset 18)") == len(GRAPHS)
    graphs = OnnxCaptioner(folder, threads=1)
    assert graphs.caption(pictures) == model.caption(pictures)
    assert graphs.caption(pictures[0], beam_size=2) == [model.caption(pictures[0], beam_size=2)]
    assert graphs.vocabulary == WORDS
