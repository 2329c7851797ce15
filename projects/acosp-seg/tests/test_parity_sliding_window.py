"""Sliding windows and the whole test program against recorded numbers of the original."""

from __future__ import annotations

import csv
import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from acosp_seg import test as program
from acosp_seg.config import Config, DataConfig, ModelConfig, QuirkConfig, RunOptions, TestConfig
from acosp_seg.predict import Predictor, Windows, scaled_size
from acosp_seg.segmenter import Segmenter, windows_of
from testing.parity import Folder, of_kind

BOTH = pytest.mark.parametrize("double", [False, True], ids=["single", "double"])


def strides(folder: Folder) -> list[int]:
    return folder.facts["model_strides"]


def network(folder: Folder, stride: int) -> nn.Module:
    """The recorded tiny network of a stride."""
    weights = {
        key.removeprefix(f"s{stride}_"): value
        for key, value in folder.arrays("data.npz").items()
        if re.fullmatch(rf"s{stride}_c\d\.(weight|bias)", key)
    }
    first, second = weights["c1.weight"], weights["c2.weight"]
    layers = OrderedDict(
        c1=nn.Conv2d(first.shape[1], first.shape[0], first.shape[2], stride, first.shape[2] // 2),
        relu=nn.ReLU(),
        c2=nn.Conv2d(second.shape[1], second.shape[0], second.shape[2], 1, second.shape[2] // 2),
    )
    model = nn.Sequential(layers)
    model.load_state_dict(weights)
    return model.eval()


def windows(folder: Folder, crop: list[int], **changes: Any) -> Windows:
    facts = folder.facts
    settings = {
        "classes": facts["classes"],
        "crop": tuple(crop),
        "mean": tuple(facts["mean"]),
        "std": tuple(facts["std"]),
        "stride_rate": facts["stride_rate"],
        "flip": facts["flip"],
    }
    return Windows(**{**settings, **changes})


def close(folder: Folder, found: torch.Tensor, expected: np.ndarray) -> None:
    assert found.dtype in (torch.float32, torch.float64)
    bound = folder.tolerance["probability_atol"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=bound)


@pytest.mark.parity
@of_kind("sliding_window")
def test_one_window_agrees_with_and_without_its_mirror_image(folder: Folder) -> None:
    arrays = folder.numpy("data.npz")
    image = arrays["image"].astype(np.float32)
    for stride in strides(folder):
        model = network(folder, stride)
        for flip, name in ((True, "net_process"), (False, "net_process_noflip")):
            predictor = Predictor(model, windows(folder, list(image.shape[:2]), flip=flip))
            for _ in range(2):  # a second time gives the same: nothing was overwritten
                close(folder, predictor.at_scale(image, image.shape[:2]), arrays[f"s{stride}_{name}"])
    assert np.array_equal(image, arrays["image"])


@BOTH
@pytest.mark.parity
@of_kind("sliding_window")
def test_every_crop_and_output_size_agrees(folder: Folder, double: bool) -> None:
    arrays = folder.numpy("data.npz")
    cases = {k: v for k, v in folder.json("expected.json").items() if re.fullmatch(r"s\d+_scale_\w+", k)}
    assert cases
    for name, case in cases.items():
        model = network(folder, int(name[1:].partition("_")[0]))
        predictor = Predictor(model, windows(folder, case["crop"], double=double, batch=3))
        found = predictor.at_scale(arrays["image"].astype(np.float32), tuple(case["out"]))
        close(folder, found, arrays[name])


@pytest.mark.parity
@of_kind("sliding_window")
def test_sizes_at_every_scale_agree(folder: Folder) -> None:
    sizes = folder.json("expected.json").get("sizes", {})
    if not sizes:
        pytest.skip(f"{folder.path} lists no sizes")
    for name, (long, new_w, new_h) in sizes.items():
        base, scale, size = name.split("_")
        high, wide = map(int, size.split("x"))
        found = scaled_size((high, wide), float(scale), int(base))
        assert found == (new_h, new_w), name
        assert max(found) == long, name


def programs(folder: Folder) -> dict[str, dict[str, Any]]:
    """Recorded runs of the whole test program, by name: those that list their files."""
    found = {name: value for name, value in folder.json("expected.json").items() if "files" in value}
    if not found:
        pytest.skip(f"{folder.path} has no run of the whole program")
    return found


def write_pictures(folder: Folder, place: Path) -> None:
    """Write the recorded pictures, label maps, list file and class tables."""
    arrays, facts = folder.numpy("data.npz"), folder.facts
    lines = []
    for number, name in enumerate(facts["image_names"]):
        for kind in ("rgb", "label"):
            (place / kind).mkdir(exist_ok=True)
            Image.fromarray(arrays[f"file{number}_{kind}"]).save(place / kind / name)
        lines.append(f"rgb/{name} label/{name}")
    (place / "list.txt").write_text("\n".join(lines))
    (place / "names.txt").write_text("\n".join(facts["class_names"]))
    (place / "colors.txt").write_text("\n".join(" ".join(map(str, c)) for c in facts["colors"]))


def program_config(folder: Folder, place: Path, case: dict[str, Any], preset: str) -> Config:
    facts = folder.facts
    data = DataConfig(
        dataset="folder",
        data_root=str(place),
        test_list=str(place / "list.txt"),
        names_path=str(place / "names.txt"),
        colors_path=str(place / "colors.txt"),
        ignore_label=facts["ignore_label_of_scores"],
    )
    settings = TestConfig(
        base_size=case["base_size"],
        test_h=case["crop"][0],
        test_w=case["crop"][1],
        scales=tuple(case["scales"]),
        flip=facts["flip"],
        stride_rate=facts["stride_rate"],
        save_folder=str(place / preset),
        result_path=str(place / "new" / f"{preset}.csv"),
    )
    return Config(
        model=ModelConfig(arch="segnet", layers=None, classes=facts["classes"]),
        data=data,
        test=settings,
        run=RunOptions(preset=preset, device="cpu"),
        quirks=QuirkConfig.of(preset),
    )


@pytest.mark.parity
@pytest.mark.parametrize("preset", ["faithful", "fixed"])
@of_kind("sliding_window")
def test_the_whole_program_agrees_in_label_maps_files_and_scores(
    folder: Folder, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, arrays = folder.facts, folder.numpy("data.npz")
    model = network(folder, facts["program_model_stride"])
    normal = {"mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    monkeypatch.setattr(program, "load", lambda path, config, device: Segmenter(model=model, config=config))
    monkeypatch.setattr(program, "windows_of", lambda cfg: replace(windows_of(cfg), **normal))
    for name, case in programs(folder).items():
        place = tmp_path / name
        place.mkdir()
        write_pictures(folder, place)
        cfg = program_config(folder, place, case, preset)
        program.test(cfg)
        stems = [n.split(".")[0] if preset == "faithful" else Path(n).stem for n in facts["image_names"]]
        files = [f"{stem}.png" for stem in stems]
        assert preset == "fixed" or sorted(files) == sorted(case["files"])
        for kind in ("gray", "color"):
            assert {path.name for path in (place / preset / kind).iterdir()} == set(files)
        for number, file in enumerate(files):
            with Image.open(place / preset / "gray" / file) as gray:
                assert gray.mode == "L"
                share = np.mean(np.array(gray) == arrays[f"{name}_gray{number}"])
                assert share >= folder.tolerance["equal_ids_share"]
                with Image.open(place / preset / "color" / file) as color:
                    assert color.mode == case["color_png"]["mode"]
                    palette = case["color_png"]["palette_first"]
                    assert color.getpalette()[: len(palette)] == palette  # type: ignore[index]
                    assert np.array_equal(color, gray) == case["color_png"]["equals_gray"]
        check_table(place / "new" / f"{preset}.csv", case, folder.tolerance["metric_atol"])
        again = replace(cfg, test=replace(cfg.test, has_prediction=True, result_path=str(place / "2.csv")))
        program.test(again)
        assert (place / "2.csv").read_text() == (place / "new" / f"{preset}.csv").read_text()


def check_table(path: Path, case: dict[str, Any], bound: float) -> None:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == case["keys"]
    assert [row[0] for row in rows] == [row[0] for row in case["rows"]]
    for row, expected in zip(rows, case["rows"], strict=True):
        assert [float(text) for text in row[1:]] == pytest.approx(expected[1:], abs=bound, rel=0)
