"""What the preparation programs write, splits and batches against recorded numbers of the original system."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from prunelab.caption.frequency import DocumentFrequency
from smp_caption.config import Config, DataConfig, ModelConfig, PruneConfig, QuirksConfig
from smp_caption.data import CaptionData, open_data
from smp_caption.features.batches import Collate, Samples
from smp_caption.prepare import bottom_up, labels, ngrams, relative_boxes
from smp_caption.prepare.options import (
    BottomUpOptions,
    LabelsOptions,
    NgramsOptions,
    RelativeBoxesOptions,
)
from smp_caption.tokenizer import RadixTokenizer, Tokenizer
from testing.parity import Folder, of_kind


def data_of(folder: Folder, collate: str) -> CaptionData:
    """The recorded mini data set as a model reads it."""
    home = folder.file(folder.facts["json_file"]).parent
    size = folder.facts["att_feat_size"]
    prune = PruneConfig(prune_type="supermask") if collate.endswith("_prune") else PruneConfig()
    return open_data(
        Config(
            model=ModelConfig(caption_model=collate, att_feat_size=size, fc_feat_size=size),
            data=DataConfig(dataset=folder.facts["dataset"], dataset_dir=str(home)),
            prune=prune,
            quirks=QuirksConfig.of("faithful"),
        ),
        splits=(),
    )


@pytest.mark.parity
@of_kind("data")
def test_splits_hold_the_recorded_pictures_in_order(folder: Folder) -> None:
    data = data_of(folder, "up_down_lstm")
    recorded = folder.json("expected_split.json")
    assert sum(len(data.records[split]) for split in recorded) == folder.facts["num_images"]
    for split, entries in recorded.items():
        records = data.records[split]
        assert [record.file for record in records] == [entry["img_path"] for entry in entries]
        assert [record.image_id for record in records] == [entry["img_id"] for entry in entries]
        assert [list(record.references) for record in records] == [entry["all_gts"] for entry in entries]
        assert [list(record.references) for record in records] == [e["all_captions"] for e in entries]
        assert [record.references[-1] for record in records] == [entry["caption"] for entry in entries]


@pytest.mark.parity
@of_kind("data")
def test_collated_batches_equal_the_recorded_ones(folder: Folder) -> None:
    model = folder.path / folder.facts["word_model"]
    for entry in folder.facts["batches"]:
        expected, facts = folder.arrays(f"{entry['file']}.npz"), folder.json(f"{entry['file']}.json")
        data = data_of(folder, entry["collate"])
        if entry["tokenizer"] == "radix":
            tokenizer: Tokenizer = RadixTokenizer(
                Path(model), base=folder.facts["radix_base"], truncation_drops_eos=True
            )
        else:
            tokenizer = Tokenizer(Path(model), kind=entry["tokenizer"], truncation_drops_eos=True)
        samples = Samples(data.records[facts["split"]], data.sources, data.cfg)
        collate = Collate(
            tokenizer=tokenizer,
            seq_per_img=facts["seq_per_img"],
            max_seq_length=facts["max_seq_length"],
            few_captions_fail=True,
        )
        random.seed(facts["python_random_seed"])
        batch = collate([samples[i] for i in facts["indices"]])
        assert {name for name, value in batch.items() if isinstance(value, torch.Tensor)} == set(expected)
        for name, values in expected.items():
            atol = folder.tolerance["boxes_relative"] if name == "boxes" else folder.tolerance["features"]
            torch.testing.assert_close(batch[name], values, rtol=0, atol=atol)
        assert [list(captions) for captions in batch["gts"]] == facts["gts"]
        assert list(batch["image_paths"]) == facts["image_paths"]
        assert list(batch["image_ids"]) == facts["image_ids"]
        assert [tokenizer.decode(row) for row in batch["seqs"]] == facts["captions_decoded"]


def home_of(folder: Folder) -> Path:
    """The data set's folder."""
    return folder.file(folder.facts["json_file"]).parent


def recorded(folder: Folder, what: str) -> dict[str, np.ndarray]:
    """The recorded arrays of each picture, by the files' names."""
    return {file.name: np.load(file) for file in home_of(folder).glob(f"bu/cocobu_{what}/*.npy")}


@pytest.mark.parity
@of_kind("data")
def test_bottom_up_features_are_unpacked_to_the_recorded_bits(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BottomUpOptions(
        downloaded_feats=str(home_of(folder) / "bu/bu_data"), output_dir=str(tmp_path / "cocobu")
    )
    if not Path(options.downloaded_feats).is_dir():
        pytest.skip(f"{folder.path} has no files of features to unpack")
    result = bottom_up.make(options)
    broken = folder.facts.get("broken_tsv_rows", [])
    assert set(result.broken) == set(broken)
    assert result.pictures == result.written == len(recorded(folder, "att"))
    for what in ("att", "fc", "box"):
        expected = recorded(folder, what)
        assert expected.keys() == {file.name for file in (tmp_path / f"cocobu_{what}").iterdir()}
        for name, values in expected.items():
            found = np.load(tmp_path / f"cocobu_{what}" / name)
            assert found.dtype == values.dtype
            np.testing.assert_allclose(found, values, rtol=0, atol=folder.tolerance["features"])
    bottom_up.report(result, options.output_dir)
    said = capsys.readouterr().out
    assert all(str(image_id) in said for image_id in broken)


@pytest.mark.parity
@of_kind("data")
def test_relative_boxes_equal_the_recorded_ones_from_pictures_and_from_a_table(
    folder: Folder, tmp_path: Path
) -> None:
    expected, home = recorded(folder, "box_relative"), home_of(folder)
    if not expected:
        pytest.skip(f"{folder.path} has no relative boxes")
    files, tables = home / "bu/bu_data", [""]
    if files.is_dir():
        bottom_up.make(BottomUpOptions(downloaded_feats=str(files), output_dir=str(tmp_path / "a")))
        tables.append(str(tmp_path / "a_sizes.csv"))
    for number, table in enumerate(tables):
        options = RelativeBoxesOptions(
            input_json=str(folder.file(folder.facts["json_file"])),
            image_root=str(home),
            input_box_dir=str(home / "bu/cocobu_box"),
            output_dir=str(tmp_path / str(number)),
            sizes=table,
        )
        assert relative_boxes.make(options) == (len(expected), len(expected))
        for name, values in expected.items():
            found = np.load(tmp_path / str(number) / name)
            assert found.dtype == values.dtype
            np.testing.assert_allclose(found, values, rtol=0, atol=folder.tolerance["boxes_relative"])


@pytest.mark.parity
@of_kind("data")
def test_labels_and_vocabulary_equal_the_recorded_ones(folder: Folder, tmp_path: Path) -> None:
    expected, home = folder.numpy("expected_cocotalk_label.npz"), home_of(folder)
    options = LabelsOptions(
        input_json=str(folder.file(folder.facts["json_file"])),
        output_json=str(tmp_path / "cocotalk.json"),
        output_h5=str(tmp_path / "cocotalk"),
        **folder.facts["labels"],
    )
    labels.make(options)
    with h5py.File(tmp_path / "cocotalk_label.h5") as file:
        assert set(file) == set(expected)
        for name, values in expected.items():
            assert file[name].dtype == values.dtype  # pyright: ignore[reportAttributeAccessIssue]
            np.testing.assert_array_equal(file[name], values)
    written = folder_json(tmp_path / "cocotalk.json")
    recorded_table = folder_json(home / "bu/cocotalk.json")
    assert written == recorded_table
    assert list(written["ix_to_word"]) == list(recorded_table["ix_to_word"])


def folder_json(path: Path) -> Any:
    """Content of a JSON file; the test is skipped where there is none."""
    if not path.is_file():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parity
@of_kind("data")
def test_document_frequencies_equal_the_recorded_tables_counted_and_from_the_originals_files(
    folder: Folder, tmp_path: Path
) -> None:
    home = home_of(folder)
    options = NgramsOptions(
        input_json=str(folder.file(folder.facts["json_file"])),
        dict_json=str(home / "bu/cocotalk.json"),
        output_pkl=str(tmp_path / "coco-train"),
        **folder.facts["ngrams"],
    )
    folder_json(Path(options.dict_json))
    ngrams.make(options)
    for name in ("words", "idxs"):
        expected = folder.json(f"expected_df_{name}.json")
        sources = [tmp_path / f"coco-train-{name}.npz", *home.glob(f"bu/*-{name}.p")]
        for source in sources:
            table = DocumentFrequency.load(source)
            assert table.images == expected["ref_len"]
            found = {" ".join(gram): count for gram, count in table.counts().items()}
            assert found == expected["document_frequency"]
