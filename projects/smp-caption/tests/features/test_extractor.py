"""Pictures to features: by hand on flat pictures, saved and loaded, with backbones of other packages."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from prunelab.data.features import open_features
from prunelab.errors import UserError
from smp_caption import extract
from smp_caption.config import Config, DataConfig, ModelConfig
from smp_caption.data import open_data
from smp_caption.features.backbones import IMAGENET_MEAN, IMAGENET_STD, CifarResNet, build_backbone
from smp_caption.features.extractor import Extractor, ExtractorConfig, ShapeExtractor, make_extractor
from smp_caption.options import ExtractOptions
from smp_caption.tokenizer import build_tokenizer

SMALL = ExtractorConfig(backbone="resnet8_cifar", scales=((16, 1), (16, 2)))
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 204))


class Pixels(nn.Module):
    """A backbone whose maps are the standardised pixels, and their sum at half the resolution."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, nn.functional.avg_pool2d(x.sum(1, keepdim=True), 2)]


def flat(colour: tuple[int, int, int], side: int = 16) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def quarters() -> Image.Image:
    """Four colours: top left, top right, bottom left, bottom right."""
    picture = Image.new("RGB", (16, 16))
    for place, colour in enumerate(COLOURS):
        picture.paste(colour, (8 * (place % 2), 8 * (place // 2), 8 * (place % 2) + 8, 8 * (place // 2) + 8))
    return picture


def test_features_of_a_flat_picture_are_what_one_computes_by_hand() -> None:
    extractor = Extractor(ExtractorConfig(scales=((16, 1), (32, 2))), Pixels())
    (features,) = extractor([flat((51, 102, 204))])
    assert features.shape == (5, 16)
    colour = np.array([0.2, 0.4, 0.8])
    standard = (colour - IMAGENET_MEAN) / IMAGENET_STD
    # Mean of both maps, maximum of the map with most channels, mean and spread of the colours.
    row = [*standard, standard.sum(), *standard, *colour, 0, 0, 0]
    places = [(0, 0, 16), (0, 0, 32), (0, 1, 32), (1, 0, 32), (1, 1, 32)]
    wanted = [[*row, top, left, side / 128] for top, left, side in places]
    # The spread of equal numbers is the root of a rounding error.
    np.testing.assert_allclose(features, np.array(wanted), atol=2e-3)
    np.testing.assert_allclose(
        np.delete(features, [10, 11, 12], axis=1)[0], [*row[:10], 0, 0, 0.125], atol=1e-5
    )


def test_cells_come_row_by_row_scale_by_scale() -> None:
    extractor = Extractor(ExtractorConfig(scales=((16, 2), (16, 1))), Pixels())
    (features,) = extractor([quarters()])
    np.testing.assert_allclose(features[:4, 7:10], np.array(COLOURS) / 255, atol=1e-6)
    np.testing.assert_allclose(features[4, 7:10], np.mean(COLOURS, axis=0) / 255, atol=1e-6)
    np.testing.assert_allclose(features[4, 10:13], np.std(np.array(COLOURS) / 255, axis=0), atol=1e-6)
    assert ExtractorConfig(scales=((16, 2), (16, 1))).regions == len(features)
    (plain,) = Extractor(ExtractorConfig(scales=((16, 2),), colour=False), Pixels())([quarters()])
    assert plain.shape == (4, 10)


def test_boxes_are_those_of_the_cells_and_of_the_shapes_that_are_found() -> None:
    extractor = Extractor(ExtractorConfig(scales=((16, 2), (16, 1))), Pixels())
    one, other = extractor.boxes([quarters(), flat(COLOURS[0], 32)])
    assert one.tolist() == other.tolist()
    assert one.tolist() == [
        [0, 0, 0.5, 0.5],
        [0.5, 0, 1, 0.5],
        [0, 0.5, 0.5, 1],
        [0.5, 0.5, 1, 1],
        [0, 0, 1, 1],
    ]
    crops = Extractor(ExtractorConfig(scales=((16, 2),), crops=True), Pixels())
    (cut,) = crops([quarters()])
    assert len(cut) == len(crops.boxes([quarters()])[0]) == 4
    shapes = ShapeExtractor(24)
    (boxes,), (found,) = shapes.boxes([quarters()]), shapes([quarters()])
    assert boxes.shape == (len(found), 4)
    assert boxes[0].tolist() == [0, 0, 1, 1]


def test_a_relation_transformer_reads_what_was_extracted(pictures: Path, tmp_path: Path) -> None:
    words = ["--dataset-json", str(pictures), "--backbone", "resnet8_cifar", "--scales", "16:1,16:2"]
    extract.main([*words, "--output", str(tmp_path)])
    size = Extractor.load(tmp_path).feature_size
    data = open_data(
        Config(
            model=ModelConfig(caption_model="relation_transformer", att_feat_size=size),
            data=DataConfig(dataset_dir=str(pictures), input_att_dir=str(tmp_path / "att"), num_workers=0),
        )
    )
    assert data.sources.places["input_rel_box_dir"] == str(tmp_path / "box_relative")
    tokenizer = build_tokenizer(tmp_path, kind="word", vocab_size=30, captions=data.train_captions())
    batch = next(iter(data.loader("val", tokenizer)))
    assert batch["boxes"].shape == (4, 5, 4)
    assert batch["boxes"][0, 1].tolist() == [0, 0, 0.5, 0.5]


def test_fitting_gives_every_number_mean_0_and_spread_1_unless_it_never_changes() -> None:
    extractor = make_extractor(SMALL)
    batches = [[quarters(), flat(COLOURS[0])], [flat(COLOURS[3])]]
    raw = torch.cat([extractor.grid(batch) for batch in batches]).flatten(0, 1)
    assert extractor.feature_size == 1
    extractor.fit(iter(batches))
    assert extractor.feature_size == raw.shape[1]
    fitted = torch.cat([extractor.grid(batch) for batch in batches]).flatten(0, 1)
    moves = raw.std(0, correction=0) > 1e-6
    assert 0 < int(moves.sum()) < len(moves)
    torch.testing.assert_close(fitted.mean(0), torch.zeros(len(moves)), atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted.std(0, correction=0), moves.float(), atol=1e-3, rtol=0)
    with pytest.raises(UserError, match="no training pictures"):
        extractor.fit(iter([]))


def test_a_saved_extractor_gives_equal_features(tmp_path: Path) -> None:
    extractor = make_extractor(SMALL, seed=3)
    extractor.fit(iter([[quarters(), flat(COLOURS[0])]]))
    extractor.save(tmp_path)
    loaded = Extractor.load(tmp_path)
    assert loaded.config == SMALL
    for ours, theirs in zip(loaded([quarters()]), extractor([quarters()]), strict=True):
        assert np.array_equal(ours, theirs)
    for name, content in extractor.files().items():
        assert (tmp_path / name).read_bytes() == content
    shapes = ShapeExtractor(24)
    shapes.save(tmp_path / "shapes")
    again = Extractor.load(tmp_path / "shapes")
    assert isinstance(again, ShapeExtractor)
    assert np.array_equal(again([quarters()])[0], shapes([quarters()])[0])
    assert again([quarters()])[0].shape[1] == again.feature_size == 24


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    weights = [make_extractor(SMALL, seed=seed).network.state_dict()["conv1.weight"] for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_networks_of_other_packages_give_maps(name: str, tmp_path: Path) -> None:
    extractor = make_extractor(ExtractorConfig(backbone=name, scales=((64, 2),)))
    assert not extractor.network.training
    maps = extractor.network(torch.zeros(1, 3, 64, 64))
    assert all(each.ndim == 4 for each in maps)
    (features,) = extractor([quarters()])
    assert features.shape[0] == 4
    assert np.isfinite(features).all()
    extractor.fit(iter([[quarters()]]))
    extractor.save(tmp_path)
    np.testing.assert_array_equal(Extractor.load(tmp_path)([quarters()])[0], extractor([quarters()])[0])


def test_a_local_file_of_weights_is_loaded_whatever_wraps_it(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = CifarResNet(1).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.safetensors")
    for file in ("a.pth", "b.safetensors"):
        network = build_backbone("resnet8_cifar", tmp_path / file)
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("resnet9_cifar", None, "resnet9_cifar: a CIFAR ResNet has 6n\\+2 layers"),
        ("resnet20_cifar", "pretrained", "has no download: give --weights FILE"),
        ("alexnet", None, "backbone 'alexnet' is not known: use resnet20_cifar, timm:NAME"),
        ("timm:resnet1", None, "timm has no model 'resnet1': .*resnet1"),
        ("timm:no_such", None, "timm has no model 'no_such'"),
        ("torchvision:resnet1", None, "torchvision has no model 'resnet1'"),
        ("torchvision:vit_b_16", None, "VisionTransformer refuses pictures of side 64 .*: expected a conv"),
        ("resnet8_cifar", "missing.pth", "missing.pth: cannot be read"),
        ("resnet8_cifar", "text.pth", "text.pth: is no file of weights"),
        ("resnet8_cifar", "text.safetensors", "text.safetensors: is no file of weights"),
        ("resnet8_cifar", "list.pth", "list.pth: holds a list, expected a checkpoint or a state dict"),
        ("resnet8_cifar", "other.pth", r"other.pth does not fit the backbone \(\d+ tensors differ\): layer1"),
        ("resnet8_cifar", "pickled.pth", "pickled.pth: a whole pickled object"),
    ],
)  # fmt: skip
def test_a_wrong_backbone_or_file_is_one_line(
    name: str, weights: str | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "few.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "pickled.pth")
    state = CifarResNet(2).state_dict()
    torch.save({n: v for n, v in state.items() if "layer1.0" not in n}, tmp_path / "other.pth")
    file = str(tmp_path / weights) if weights and weights != "pretrained" else weights
    with pytest.raises(UserError, match=said) as error:
        build_backbone(name, file)
    assert "\n" not in str(error.value)


def test_files_that_do_not_belong_together_are_one_line(tmp_path: Path) -> None:
    make_extractor(SMALL).save(tmp_path)
    text = (tmp_path / "extractor.json").read_text()
    for changed, said in (
        (text.replace("extractor/1", "extractor/9"), "extractor.json: expected format"),
        ("{", "extractor.json: broken JSON"),
        (text.replace("scales", "scale"), "scale"),
        (text.replace("resnet8", "resnet14"), "weights of another model: .*missing: layer1.1"),
        (text.replace("      1\n", "      99\n"), r"expected SIDE:CELLS"),
    ):
        (tmp_path / "extractor.json").write_text(changed)
        with pytest.raises(UserError, match=said):
            Extractor.load(tmp_path)
    (tmp_path / "extractor.json").write_text(text)
    save_file({"network.conv1.weight": torch.zeros(2)}, tmp_path / "extractor.safetensors")
    with pytest.raises(UserError, match="mean or std is missing"):
        Extractor.load(tmp_path)
    with pytest.raises(UserError, match=r"holds no extractor\.json and extractor.safetensors: run `extract`"):
        Extractor.load(tmp_path / "nowhere")


def test_the_command_writes_features_once_and_says_how_to_train(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "features"
    words = ["--dataset-json", str(pictures), "--backbone", "resnet8_cifar", "--scales", "16:1,16:2"]
    extract.main([*words, "--output", str(output), "--batch-size", "5"])
    said = capsys.readouterr().out
    extractor = Extractor.load(output)
    size = extractor.feature_size
    assert f"21 pictures, 5 regions of {size} numbers (resnet8_cifar, weights: random)" in said
    assert f"--input_att_dir {output / 'att'} --att_feat_size {size}\n" in said
    assert f"--input_fc_dir {output / 'fc'} --fc_feat_size {size}\n" in said
    assert f"--input_rel_box_dir {output / 'box_relative'}\n" in said
    for name in ("att", "fc", "box", "box_relative"):
        assert len(list((output / name).glob("*.npy"))) == 21
    picture = Image.open(pictures / "train/2.png")
    (wanted,) = extractor([picture])
    found = np.load(output / "att/2.npy")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(np.load(output / "fc/2.npy"), found.mean(axis=0), atol=1e-6)
    (boxes,) = extractor.boxes([picture])
    np.testing.assert_array_equal(np.load(output / "box_relative/2.npy"), boxes)
    np.testing.assert_allclose(np.load(output / "box/2.npy"), boxes * 16)
    # What is there stays; what is missing is computed again, to the same bits.
    bits = (output / "att/2.npy").read_bytes()
    stays = (output / "att/3.npy").stat().st_mtime_ns
    (output / "att/2.npy").unlink()
    extract.main([*words, "--output", str(output), "--batch-size", "5"])
    np.testing.assert_allclose(np.load(output / "att/2.npy"), found, atol=1e-5)
    # Features that were made before there were boxes get theirs.
    rows = (output / "att/2.npy").stat().st_mtime_ns
    shutil.rmtree(output / "box_relative")
    extract.main([*words, "--output", str(output), "--batch-size", "5"])
    np.testing.assert_array_equal(np.load(output / "box_relative/2.npy"), boxes)
    assert (output / "att/2.npy").stat().st_mtime_ns == rows
    assert len(bits) == (output / "att/2.npy").stat().st_size
    assert (output / "att/3.npy").stat().st_mtime_ns == stays


def test_a_store_holds_what_a_folder_of_files_holds(pictures: Path, tmp_path: Path) -> None:
    for kind in ("npy", "store"):
        options = ExtractOptions(
            images=str(pictures / "test"),
            backbone="resnet8_cifar",
            scales="16:1",
            format=kind,
            output=str(tmp_path / kind),
        )
        assert extract.extract(options) == tmp_path / kind
    files, store = (open_features(tmp_path / kind / "att") for kind in ("npy", "store"))
    ids = [int(path.stem) for path in (tmp_path / "npy/att").glob("*.npy")]
    assert len(ids) == 5
    for image_id in ids:
        np.testing.assert_allclose(store.get(image_id), files.get(image_id), atol=2e-2)
        assert open_features(tmp_path / "store/fc").get(image_id).shape[0] == 1
        for name in ("box", "box_relative"):
            boxes = [open_features(tmp_path / kind / name).get(image_id) for kind in ("npy", "store")]
            np.testing.assert_array_equal(*boxes)


def test_mistakes_of_the_command_are_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "1.png").write_bytes((pictures / "train/1.png").read_bytes()[:-30])
    words = ["--backbone", "resnet8_cifar", "--scales", "16:1", "--output", str(tmp_path / "out")]
    extract.main(["--images", str(pictures / "val"), *words])
    (tmp_path / "empty").mkdir()
    (tmp_path / "boxes").mkdir()
    for number in range(4):
        np.save(
            tmp_path / f"boxes/{number}.npy",
            np.array([[-0.5, 0, 16.5, 9], [0, 0, 9, 16 + 9 * (number == 2)]]),
        )
    outside = ["--images", str(pictures / "val"), "--boxes", str(tmp_path / "boxes")]
    capsys.readouterr()
    for arguments, said in (
        (
            ["--images", str(broken), *words[:-1], str(tmp_path / "new")],
            "1.png: picture is damaged or cut off",
        ),
        (["--images", str(tmp_path / "empty"), *words], "empty"),
        (["--images", str(tmp_path / "nowhere"), *words], "nowhere"),
        (
            ["--images", str(pictures / "val"), *words, "--no-colour"],
            "holds features of .* choose another --output",
        ),
        (
            ["--images", str(pictures / "val"), *words, "--scales", "16-1"],
            "scales is '16-1', expected SIDE:CELLS",
        ),
        (
            ["--images", str(pictures / "val"), *words, "--scales", "4:1"],
            "expected SIDE:CELLS with SIDE >= 8",
        ),
        (
            [*outside, *words[:-1], str(tmp_path / "cut")],
            r"boxes: image 2 \(\d+.png\): box 1 is \[0.0, 0.0, 9.0, 25.0\], expected .* y2 <= 16",
        ),
        (words, "extract needs either --images DIR or --dataset-json FILE"),
    ):
        with pytest.raises(SystemExit) as stop:
            extract.main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert re.search(said, error), error
    # Weights are told apart by their content: a copy of a file is the same, another file of its name is not.
    for seed, folder in ((1, "a"), (1, "b"), (2, "c")):
        (tmp_path / folder).mkdir()
        torch.manual_seed(seed)
        torch.save(CifarResNet(1).state_dict(), tmp_path / folder / "weights.pth")
    weighted = ["--images", str(pictures / "val"), *words[:-1], str(tmp_path / "weighted"), "--weights"]
    for folder in ("a", "b"):
        extract.main([*weighted, str(tmp_path / folder / "weights.pth")])
    capsys.readouterr()
    for arguments, said in (
        (
            [*weighted, str(tmp_path / "c/weights.pth")],
            "other weights of resnet8_cifar than .*c/weights.pth: cho",
        ),
        (
            ["--images", str(pictures / "val"), *words, "--seed", "7"],
            "than random ones of seed 7: choose another",
        ),
    ):
        with pytest.raises(SystemExit):
            extract.main(arguments)
        assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "new/att").exists()
    assert json.loads((tmp_path / "out/extractor.json").read_text())["colour"] is True
