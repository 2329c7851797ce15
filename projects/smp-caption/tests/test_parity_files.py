"""Recorded checkpoints as the original leaves them in a run's folder: loaded, exported, loaded, decoded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunelab.decode import decode
from prunelab.errors import UserError
from prunelab.mask.files import load_state
from smp_caption import convert, export
from smp_caption.captioner import Captioner
from smp_caption.config import QuirksConfig
from smp_caption.files import original
from smp_caption.model.decoding import options_of
from smp_caption.options import ConvertOptions, ExportOptions
from smp_caption.tokenizer import SPECIALS, build_tokenizer
from testing.parity import Folder, of_kind

from .parity_models import decoding_as, images, inputs_of

CAPTIONS = ("a cat", "a dog")
"""Captions of a vocabulary that is smaller than any recorded one."""


def as_published(folder: Folder, place: Path) -> Path:
    """The folder's weights and configuration under the original's names, with a tokenizer that fits."""
    place.mkdir(parents=True)
    for path in folder.find("*.pth"):
        if not path.name.startswith("optimizer"):
            shutil.copy(path, place / f"model_{path.name.partition('_')[2]}")
    plain = folder.json("config.json")
    plain["tokenizer"] = "radix" if plain["tokenizer"] == "radix" else "word"  # others need longer captions
    (place / "config.json").write_text(json.dumps(plain))
    pieces = len(SPECIALS) + len({word for caption in CAPTIONS for word in caption.split()})
    found = build_tokenizer(
        place,
        kind=plain["tokenizer"],
        vocab_size=pieces,
        radix_base=plain.get("radix_base") or 2,
        captions=CAPTIONS,
    )
    assert len(found) <= plain["vocab_size"]
    return place


def said(folder: Folder, captioner: Captioner, entries: list[dict[str, Any]]) -> list[Any]:
    """The tokens of each recorded search that did not fail, as the original decodes."""
    model, found = decoding_as(captioner.model, original=True), []
    with torch.inference_mode():
        for entry in entries:
            options = options_of(model.cfg, entry["opt"], original=True)
            found.append(decode(model.step, model.begin(images(inputs_of(folder))), options).tokens.tolist())
    return found


def recordings(folder: Folder, *, masked: bool) -> list[dict[str, Any]]:
    """What the original decoded with weights of this folder: of its own class, or of the dense one."""
    name = "decode.json" if masked or folder.kind == "dense" else "decode_dense_class.json"
    return [entry for entry in folder.json(name) if "error" not in entry]


def files(place: Path) -> Iterator[Path]:
    """The weights in a run's folder, the last state and the first not among them."""
    yield from sorted(place.glob(f"{Path(original.BEST).stem}*.pth"))


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_every_file_is_loaded_by_its_content_and_decodes_the_recorded_captions(
    folder: Folder, tmp_path: Path
) -> None:
    place = as_published(folder, tmp_path / "run")
    tried = list(files(place))
    assert tried
    for path in tried:
        captioner = original.load(path)
        masked = any(name.endswith("_pruning_mask") for name in load_state(path)[0])
        assert captioner.config.pruned == (captioner.mask is not None) == masked
        entries = recordings(folder, masked=masked)
        assert said(folder, captioner, entries) == [entry["seq"] for entry in entries], path.name
    cfg = original.run_config(place)
    assert (cfg.quirks, cfg.model.caption_model) == (
        QuirksConfig.of("faithful"),
        folder.about["caption_model"],
    )


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_what_is_exported_in_any_format_decodes_the_same(folder: Folder, tmp_path: Path) -> None:
    place = as_published(folder, tmp_path / "run")
    captioner = original.load(place)
    formats = ["original", "packed", *(["sparse", "binary"] if captioner.mask else [])]
    for name in formats:
        target = tmp_path / name / "model.any"
        file = export.export(ExportOptions(model=str(place), format=name, output=str(target)))
        again = original.load(file)
        masked = captioner.mask is not None and name in ("original", "binary")
        assert again.config.pruned == masked, name
        entries = recordings(folder, masked=masked)
        assert said(folder, again, entries) == [entry["seq"] for entry in entries], name
        if name == "original":
            before, after = (load_state(path)[0] for path in (original.find(place), file))
            assert list(before) == list(after)
            assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_a_converted_folder_is_the_same_model_and_its_use_of_the_file_is_told(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = as_published(folder, tmp_path / "run")
    for number, path in enumerate(files(place)):
        target = tmp_path / str(number)
        convert.convert(ConvertOptions(source=str(path), destination=str(target)))
        line = capsys.readouterr().out
        captioner, again = original.load(path), Captioner.from_pretrained(target)
        assert again.config == captioner.config
        assert f"{path}: {again.config.caption_model}, {len(load_state(path)[0])} tensors" in line
        assert "unused keys: none; missing keys: none" in line
        state = again.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in captioner.model.state_dict().items())


@pytest.mark.parity
@of_kind("dense")
def test_a_table_of_positions_may_be_missing_from_a_file(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = as_published(folder, tmp_path / "run")
    path = place / original.BEST
    state = {name: value for name, value in load_state(path)[0].items() if not name.endswith(".pe")}
    missing = len(load_state(path)[0]) - len(state)
    original.write_state(path, state)
    convert.convert(ConvertOptions(source=str(path), destination=str(tmp_path / "out")))
    line = capsys.readouterr().out
    assert ("missing keys: none" in line) == (missing == 0)
    assert ("1 (tables of positions, which are computed)" in line) == (missing == 1)
    entries = recordings(folder, masked=False)
    captioner = Captioner.from_pretrained(tmp_path / "out")
    assert said(folder, captioner, entries) == [entry["seq"] for entry in entries]


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_half_precision_files_load_and_a_vocabulary_of_another_size_is_one_line(
    folder: Folder, tmp_path: Path
) -> None:
    place = as_published(folder, tmp_path / "run")
    for path in files(place):
        state = load_state(path)[0]
        half = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
        original.write_state(tmp_path / "run/half.pth", half)
        found = original.load(tmp_path / "run/half.pth").model.state_dict()
        for name, value in half.items():
            wide = value.to_dense() if value.layout is torch.strided else value.float().to_dense()
            assert torch.equal(found[name], wide.float()), name
        (tmp_path / "run/half.pth").unlink()
    plain = json.loads((place / "config.json").read_text())
    size = plain["vocab_size"]
    (place / "config.json").write_text(json.dumps({**plain, "vocab_size": size + 3}))
    said = f"has a vocabulary of {size} tokens, the model one of {size + 3}"
    with pytest.raises(UserError, match=said):
        original.load(place)
