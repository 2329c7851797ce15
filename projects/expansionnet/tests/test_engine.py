"""The recipe for TensorRT names every size that a graph leaves open; TensorRT itself is not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expansionnet import engine
from expansionnet.options import EngineOptions
from prunelab.errors import UserError
from prunelab.export import ENCODER, STEP

POSITIONS = 12
INPUTS: dict[str, dict[str, list[int | str]]] = {
    ENCODER: {"images": ["pictures", 3, 32, 32]},
    STEP: {
        **{"tokens": ["rows"], "picture": ["rows"], "keys": ["pictures", 1, 4, 16, 8]},
        **{"queries": ["rows", 1, "words", 4], "forward": ["rows", 1, 2, "words", 4, "words"]},
    },
}
"""Inputs of graphs as export writes them, with the names of sizes that are free."""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs with such inputs that do nothing."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("graphs")
    for name, inputs in INPUTS.items():
        values = [onnx.helper.make_tensor_value_info(key, 1, shape) for key, shape in inputs.items()]
        model = onnx.helper.make_model(onnx.helper.make_graph([], "nothing", values, []))
        onnx.helper.set_model_props(model, {"model": json.dumps({"max_seq_len": POSITIONS}), "by": "a test"})
        onnx.save(model, str(folder / name))
    return folder


def test_every_free_size_of_both_graphs_has_a_range(
    graphs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine.shutil, "which", lambda _: None)
    options = EngineOptions(onnx_path=str(graphs), engine_path="a/e.trt", data_type="fp16", max_pictures=2)
    assert engine.build(options) == []
    assert capsys.readouterr().out.count("trtexec --onnx=") == 2
    encoder, step = engine.commands(options).values()
    assert encoder[1:3] == [f"--onnx={graphs / 'encoder.onnx'}", "--saveEngine=a/e.trt"]
    assert step[2] == "--saveEngine=a/e-step.trt"
    assert encoder[3:] == [
        f"--{kind}Shapes=images:{n}x3x32x32" for kind, n in zip(("min", "opt", "max"), (1, 1, 2), strict=True)
    ] + ["--fp16"]
    least, likely, most = (
        dict(part.split(":") for part in word.partition("=")[2].split(",")) for word in step[3:6]
    )
    assert least.keys() == engine.read_graph(graphs / "step.onnx")[0].keys()
    assert [shapes["tokens"] for shapes in (least, likely, most)] == ["1", "5", "10"]
    assert [shapes["queries"].split("x")[2] for shapes in (least, likely, most)] == [
        "0",
        "10",
        str(POSITIONS),
    ]


def test_trtexec_is_called_for_each_graph(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/trtexec"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" >> called\n[ ! -e stop ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.chdir(tmp_path)
    options = EngineOptions(onnx_path=str(graphs))
    assert engine.build(options) == [Path("model_engine.trt"), Path("model_engine-step.trt")]
    assert (tmp_path / "called").read_text().count("--onnx=") == 2
    (tmp_path / "stop").touch()
    with pytest.raises(UserError, match=r"model_engine\.trt: trtexec failed"):
        engine.build(options)


def test_graphs_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.onnx: no such file, expected a folder that `export"):
        engine.build(EngineOptions(onnx_path=str(tmp_path)))
