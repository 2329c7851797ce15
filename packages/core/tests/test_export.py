from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab import export
from prunelab.errors import UserError
from prunelab.export import ExportReport, Graph, to_onnx


class Captioner(nn.Module):
    """Small, but with what our networks have: convolution, norm, look-up, recurrence, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
        self.embed = nn.Embedding(9, 6)
        self.cell = nn.LSTMCell(6, 6)
        self.head = nn.Linear(6, 9)

    def forward(self, image: Tensor, *, tokens: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        regions = self.stem(image).flatten(2).mT  # (B, N, D)
        hidden, cell = regions.mean(1), regions.amax(1)
        logits = []
        for step in range(tokens.shape[1]):
            hidden, cell = self.cell(self.embed(tokens[:, step]), (hidden, cell))
            query, keys = hidden[:, None, None], regions[:, None]  # (B, 1, 1, D), (B, 1, N, D)
            seen = F.scaled_dot_product_attention(query, keys, keys)[:, 0, 0]
            logits.append(self.head(hidden + seen))
        found = torch.stack(logits, 1)
        return {"logits": found.log_softmax(-1) * scale, "ids": found.argmax(-1)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Captioner, Path, ExportReport]:
    torch.manual_seed(0)
    model = Captioner()
    model.stem[1].eval()
    path = tmp_path_factory.mktemp("onnx") / "deep" / "captioner.onnx"
    report = to_onnx(
        model,
        (torch.rand(1, 3, 8, 8),),
        path,
        kwargs={"tokens": torch.randint(9, (1, 3)), "scale": 2.0},
        input_names=["image", "tokens"],
        output_names=["logits", "ids"],
        dynamic={"image": {0: "batch", 2: "height"}, "tokens": {0: "batch"}},
        sizes={"height": [10, 12]},
        metadata={"vocabulary": ["a", "b"], "preset": "fixed"},
    )
    return model, path, report


def test_the_file_computes_what_the_model_computes_at_any_batch_size(
    exported: tuple[Captioner, Path, ExportReport],
) -> None:
    model, path, _ = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, height in ((1, 8), (5, 14)):
        image, tokens = torch.rand(batch, 3, height, 8), torch.randint(9, (batch, 3))
        logits, ids = session.run(None, {"image": image.numpy(), "tokens": tokens.numpy()})
        with torch.no_grad():
            expected = model.eval()(image, tokens=tokens, scale=2.0)
        torch.testing.assert_close(torch.tensor(logits), expected["logits"], atol=1e-5, rtol=0)
        assert torch.equal(torch.tensor(ids), expected["ids"])


def test_the_report_says_what_was_tried(exported: tuple[Captioner, Path, ExportReport]) -> None:
    _, path, report = exported
    assert report.path == path
    assert report.bytes == path.stat().st_size
    assert 0 <= report.difference <= 1e-4
    assert report.opset >= 18
    assert report.tries == (
        "image 2x3x8x8, tokens 2x3",
        "image 1x3x8x8, tokens 1x3",
        "image 3x3x8x8, tokens 3x3",
        "image 2x3x10x8, tokens 2x3",
        "image 2x3x12x8, tokens 2x3",
    )
    assert "within" in str(report)
    assert "image 1x3x8x8" in str(report)
    assert os.listdir(path.parent) == ["captioner.onnx"]


def test_metadata_is_in_the_file(exported: tuple[Captioner, Path, ExportReport]) -> None:
    model = onnx.load(exported[1])
    onnx.checker.check_model(model)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found["producer"] == "prunelab"
    assert found["preset"] == "fixed"
    assert json.loads(found["vocabulary"]) == ["a", "b"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def linear() -> nn.Module:
    return nn.Linear(3, 2)


def quick(module: nn.Module, path: Path, *args: Any, **options: Any) -> ExportReport:
    names = [f"x{i}" for i in range(len(args))]
    return to_onnx(module, args, path, **{"input_names": names, "output_names": ["y"], **options})


def test_modes_warnings_and_log_levels_are_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9)).train()
    module[0].eval()
    level = logging.root.manager.disable
    report = quick(module, tmp_path / "m.onnx", torch.rand(2, 3))
    assert report.tries == ("x0 2x3",)
    assert [part.training for part in module] == [False, True]
    assert logging.root.manager.disable == level
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    with pytest.raises(UserWarning):
        warnings.warn("still an error", UserWarning, stacklevel=1)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}: install prunelab\[export\]"):
        quick(linear(), tmp_path / "m.onnx", torch.rand(2, 3))


def test_importing_the_module_imports_none_of_them() -> None:
    source = Path(export.__file__).read_text()
    assert not any(line.startswith(("import onnx", "from onnx")) for line in source.splitlines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_names": ["a", "b"]}, "1 input tensors, but 2 input_names"),
        ({"output_names": ["a", "b"]}, "1 outputs, but 2 output_names"),
        ({"dynamic": {"z": {0: "b"}}}, r"dynamic axes of \['z'\], which are not in input_names"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(linear(), tmp_path / "m.onnx", torch.rand(2, 3), **options)


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.sum()) if float(x.sum()) > 0 else torch.zeros(int(x.sum().abs()))


def test_a_module_that_cannot_be_exported_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^Unexportable cannot be exported to ONNX: \w") as caught:
        quick(Unexportable(), tmp_path / "m.onnx", torch.rand(2, 3))
    assert capfd.readouterr() == ("", "")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def compared(
    ours: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tolerance: float = 1e-4
) -> ExportReport:
    """Export y = x + 1, but let the model answer something else from the tracing on."""

    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer: Callable[[Tensor], Tensor] = lambda x: x + 1

        def forward(self, x: Tensor) -> Tensor:
            return self.answer(x)

    module = Changing()
    trace = export._trace

    def trace_then_change(*args: Any) -> Any:
        proto = trace(*args)
        module.answer = ours
        return proto

    monkeypatch.setattr(export, "_trace", trace_then_change)
    return quick(module, tmp_path / "m.onnx", torch.ones(2, 3), tolerance=tolerance)


def test_a_file_that_would_differ_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = r"graph's y differs by 0\.01 from the model's on x0 2x3, allowed is 0\.0001; nothing was written"
    with pytest.raises(UserError, match=line):
        compared(lambda x: x + 1.01, monkeypatch, tmp_path)
    assert os.listdir(tmp_path) == []
    assert compared(lambda x: x + 1.01, monkeypatch, tmp_path, tolerance=0.02).difference == pytest.approx(
        0.01, 1e-3
    )


def test_a_file_is_run_with_tensors_and_says_what_was_put_into_it(tmp_path: Path) -> None:
    rows = torch.tensor([[1.0, 3.0], [0.0, 5.0]])
    to_onnx(
        Shares(),
        (rows,),
        tmp_path / "g.onnx",
        input_names=["x"],
        output_names=["y"],
        dynamic={"x": {0: "rows"}},
        metadata={"sizes": {"d": 2}},
    )
    graph = Graph(tmp_path / "g.onnx", threads=1)
    assert (graph.inputs, json.loads(graph.facts["sizes"])) == (("x",), {"d": 2})
    (found,) = graph(["y"], {"x": rows.requires_grad_(), "unread": torch.zeros(3)})
    assert found.tolist() == [[0.25, 0.75], [0.0, 1.0]]
    with pytest.raises(UserError, match=r"no\.onnx: no such file, expected a graph"):
        Graph(tmp_path / "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"bad\.onnx: onnxruntime refuses it: "):
        Graph(tmp_path / "bad.onnx")


class Shares(nn.Module):
    """What a row's numbers are of its sum; a row of zeros has shares of 0, by an epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.sum(-1, keepdim=True) + 1e-9).view(x.shape[0], 1)


def test_graphs_that_are_folded_or_left_alone_keep_small_epsilons(tmp_path: Path) -> None:
    sizes = {}
    for simplify in ("fold", "no"):
        rows = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
        report = to_onnx(
            Shares(),
            (rows,),
            tmp_path / f"{simplify}.onnx",
            input_names=["x"],
            output_names=["y"],
            dynamic={"x": {0: "rows"}},
            simplify=simplify,
        )
        assert report.difference == 0
        session = onnxruntime.InferenceSession(report.path)
        assert session.run(None, {"x": rows.numpy()})[0].tolist() == [[0.25, 0.75], [0.0, 0.0]]
        sizes[simplify] = len(onnx.load(report.path).graph.node)
    assert sizes["fold"] < sizes["no"]


@pytest.mark.parametrize(
    "answer", [lambda x: x + float("nan"), lambda x: x + float("inf"), lambda x: x[:1] + 1]
)
def test_nan_infinity_and_another_shape_are_never_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(UserError, match="differs by inf"):
        compared(answer, monkeypatch, tmp_path, tolerance=1e30)


def test_differences_by_hand() -> None:
    nan, inf = float("nan"), float("inf")
    assert export._difference(torch.tensor([1.0, nan, inf, -inf]), torch.tensor([1.5, nan, inf, -inf])) == 0.5
    assert export._difference(torch.tensor([inf]), torch.tensor([-inf])) == inf
    assert export._difference(torch.tensor([3, 4]), torch.tensor([3, 6])) == 2
    assert export._difference(torch.tensor([True]), torch.tensor([False])) == 1
    assert export._difference(torch.zeros(0), torch.zeros(0)) == 0
