"""``export``: graphs that caption as the network does, and files that are recognised by what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from prunelab.config import to_plain
from prunelab.errors import UserError
from prunelab.mask import MaskSpec, packed
from smp_caption import export
from smp_caption.captioner import Captioner
from smp_caption.export import compare, export_onnx
from smp_caption.features.extractor import ShapeExtractor
from smp_caption.files import original
from smp_caption.files.onnx_beam import OnnxCaptioner
from smp_caption.files.onnx_graphs import names_of
from smp_caption.model import TransformerNetwork
from smp_caption.options import ExportOptions

from .made import FAMILIES, made, regions


@pytest.mark.parametrize("family", [pytest.param("up_down", marks=pytest.mark.slow), "ort"])
def test_graphs_of_a_pruned_model_say_of_pictures_what_it_says(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask, extractor = MaskSpec(kind="fixed"), ShapeExtractor(12)
    captioner = made(tmp_path, family, mask=mask, extractor=extractor, num_layers=1)
    captioner.save_pretrained(tmp_path / "best")
    export.main([str(tmp_path / "best"), "--format", "onnx"])
    assert "captions of noise with 3 beams are PyTorch's" in capsys.readouterr().out
    graphs, dense = OnnxCaptioner(tmp_path / "best.onnx", threads=1), captioner.pruned()
    assert graphs.config == dense.config
    picture, some = Path(__file__).parents[1] / "docs/shapes.png", regions(4, 1, 9, 4)
    assert graphs.caption(picture) == captioner.caption(picture)
    for beams in (1, 2, 5):
        said = captioner.caption_features(**some, beam_size=beams)
        assert graphs.caption_features(**some, beam_size=beams) == said
        assert len(said) == 4
    names = names_of(dense.config)
    for name, read in (("encoder.onnx", names.pictures), ("step.onnx", names.encoded + names.caches)):
        graph = onnx.load(tmp_path / "best.onnx" / name)
        facts = {entry.key: entry.value for entry in graph.metadata_props}
        assert json.loads(facts["model"]) == to_plain(dense.config)
        assert {entry.name for entry in graph.graph.input} - {"tokens", "picture"} == set(read)
    other = made(tmp_path, family, num_layers=1, seed=7)
    with pytest.raises(UserError, match="differ"):
        compare(other, graphs, 3)


@pytest.mark.slow
def test_graphs_of_the_plain_transformer_say_what_it_says(tmp_path: Path) -> None:
    captioner, some = made(tmp_path, "transformer"), regions(3, 5)
    reports = export_onnx(captioner, tmp_path / "graphs")
    assert max(report.difference for report in reports) <= 1e-4
    graphs = OnnxCaptioner(tmp_path / "graphs", threads=1)
    assert graphs.caption_features(**some) == captioner.caption_features(**some)


@pytest.mark.slow
def test_graphs_of_shared_layers_have_a_cache_for_each_depth(tmp_path: Path) -> None:
    captioner = made(tmp_path, "acort")
    assert isinstance(captioner.model, TransformerNetwork)
    some = regions(3, 5)
    said = captioner.caption_features(**some)
    captioner.model.caching = "mixed"
    export_onnx(captioner, tmp_path / "graphs")
    graphs = OnnxCaptioner(tmp_path / "graphs", threads=1)
    assert graphs.tokenizer.kind == "radix"
    assert graphs.caption_features(**some) == said
    step = onnx.load(tmp_path / "graphs/step.onnx").graph
    (cache,) = (entry for entry in step.input if entry.name == "cache")
    depths = cache.type.tensor_type.shape.dim[1].dim_value
    assert depths == len(FAMILIES["acort"]["share_layer_decoder"])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_packed_file_is_a_checkpoint_like_any_other_and_holds_no_table_of_positions(
    family: str, tmp_path: Path
) -> None:
    captioner = made(tmp_path, family, mask=MaskSpec(kind="fixed"), extractor=ShapeExtractor(12))
    folder, some = captioner.save_pretrained(tmp_path / "model"), regions(2, 6)
    options = ExportOptions(model=str(folder), format="packed", output=str(tmp_path / "out/model.plp"))
    file = export.export(options)
    assert not [name for name in packed.PackedFile(file).entries if name.endswith(".pe")]
    again = original.load(file)
    assert (again.config, again.mask) == (captioner.pruned().config, None)
    assert again.caption_features(**some) == captioner.caption_features(**some)
    picture = Path(__file__).parents[1] / "docs/shapes.png"
    assert again.caption(picture) == captioner.caption(picture), "the extractor went along"
    assert Captioner.from_pretrained(again.save_pretrained(tmp_path / "back")).config == again.config
