"""Networks in other formats: graphs that agree and drop tokens, the original's checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apt_vit.classifier import Classifier
from apt_vit.export import Dropping, export, main
from apt_vit.files.loading import open_weights
from apt_vit.options import ExportOptions
from apt_vit.preprocess import Preprocess
from apt_vit.tokens.dropping import Dropper
from apt_vit.tokens.rules import Rule
from testing.mistakes import Fails

from .small import pictures, small_model


def saved(folder: Path, rule: Rule | None = None, blocks: int = 2) -> Path:
    """A model folder; few blocks, since a graph takes a second each to be made."""
    model = small_model(num_layers=blocks, clip_layers=(0,))
    given = Classifier(model=model, preprocess=Preprocess(size=(20, 24)), rule=rule or Rule())
    return given.save_pretrained(folder / "last")


def small_of(folder: Path) -> Classifier:
    return open_weights(folder)[0]


def run_onnx(file: Path, x: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pictures": x.numpy()})
    return torch.from_numpy(np.asarray(logits))


def test_a_graph_of_all_tokens_agrees_for_any_number_of_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path, blocks=1)
    file = export(ExportOptions(model=str(folder)))
    assert file == tmp_path / "last.onnx"
    assert "within" in capsys.readouterr().out
    x = pictures(5)
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(file, x), small_of(folder).model(x), atol=1e-4, rtol=0)


def test_a_graph_drops_tokens_at_a_keep_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    folder = saved(tmp_path)
    file = export(ExportOptions(model=str(folder), keep_rate=0.6, output=str(tmp_path / "dropping.onnx")))
    assert "within" in capsys.readouterr().out
    x, model = pictures(5, seed=3), small_of(folder).model
    dropped = Dropper(model, Rule(keep_rate=0.6))(x)
    torch.testing.assert_close(run_onnx(file, x), dropped.logits, atol=1e-4, rtol=0)
    assert (dropped.logits - model(x)).abs().max() > 1e-3
    graph = onnx.load(file)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert properties["rule"] == '{"method": "agent", "keep_rate": 0.6}'
    shapes = [[d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in graph.graph.value_info]
    assert any(shape[1:] == [19, 24] for shape in shapes)


@pytest.mark.parametrize("method", ["agent", "cls-attention"])
@pytest.mark.parametrize("rate", [0.01, 0.4, 1.0])
def test_what_is_exported_drops_as_pictures_are_classified(method: str, rate: float) -> None:
    model, x, rule = small_model(), pictures(4), Rule(method=method, keep_rate=rate)
    with torch.no_grad():
        for agent in list(model.agents.values())[:1]:
            agent.fc.weight.zero_()  # all tokens are equal: the earlier ones stay
        torch.testing.assert_close(
            Dropping(model, rule)(x), Dropper(model, rule)(x).logits, atol=1e-5, rtol=1e-5
        )


def test_the_originals_checkpoint_goes_out_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path, Rule(keep_rate=0.5))
    main([str(folder), "--format", "original"])
    said = capsys.readouterr().out
    file = tmp_path / "last_checkpoint.bin"
    assert f"{file}: read again, all" in said
    first, second = small_of(folder), small_of(file)
    assert first.facts() == second.facts()
    state = torch.load(file, weights_only=True)
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in state.items())


def test_mistakes_get_one_line_and_a_dry_run_writes_nothing(
    tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path, Rule(method="random", keep_rate=0.5))
    fails(
        main, [str(folder), "--keep-rate", "0.5"], r"model of method random, expected agent or cls-attention"
    )
    fails(main, [str(folder), "--output", str(folder)], r"not written over the model itself")
    fails(main, [str(tmp_path / "nothing")], r"nothing: no such file or folder")
    main([str(folder), "--dry-run"])
    assert f"would be written to {tmp_path / 'last.onnx'}" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["last"]
