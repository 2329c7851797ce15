"""Folders of graphs that cannot be used are refused in a line; how they caption is in `test_export`."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from expansionnet.files.onnx_beam import OnnxCaptioner
from prunelab.config import to_plain
from prunelab.errors import UserError

from ..small import WORDS, config


def write_graph(path: Path, **facts: object) -> None:
    """A graph that does nothing, with what it says of its model."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {key: str(text) for key, text in facts.items()})
    onnx.save(model, path)


def test_folders_without_graphs_of_a_captioner_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder.onnx: no such file, expected a graph that `export` wrote"):
        OnnxCaptioner(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"encoder.onnx: onnxruntime refuses it: "):
        OnnxCaptioner(tmp_path)
    for name in ("encoder.onnx", "step.onnx"):
        write_graph(tmp_path / name)
    with pytest.raises(UserError, match=r"encoder.onnx: no graph of a captioner: it says nothing of its"):
        OnnxCaptioner(tmp_path)


def test_what_graphs_say_of_their_model_is_known(tmp_path: Path) -> None:

    cfg = config(end_to_end=False)
    facts = {"model": json.dumps(to_plain(cfg)), "decode": '{"max_len": 7}', "black_pictures": "true"}
    for name in ("encoder.onnx", "step.onnx"):
        write_graph(tmp_path / name, **facts)
    with pytest.raises(UserError, match="no vocabulary there"):
        OnnxCaptioner(tmp_path)
    WORDS.save(tmp_path)
    found = OnnxCaptioner(tmp_path, threads=1)
    assert (found.config, found.vocabulary, found.black_pictures) == (cfg, WORDS, True)
    options = found.options()
    assert (options.beam_size, options.max_length, options.bos) == (3, 6, WORDS.sos)
    with pytest.raises(UserError, match="reads features: give them to `search`"):
        found.caption(["cat.jpg"])
