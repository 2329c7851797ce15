from dataclasses import replace

import numpy as np
import pytest
import torch

from channel_prune.config import Config, DataConfig, NetConfig
from channel_prune.preprocess import Preprocess, preprocess_of
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError
from prunelab.transforms.classify import CIFAR, ILSVRC, IMAGENET, central_crop
from prunelab.transforms.resize import resize_bilinear_tf1

LARGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
SMALL = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def way(dataset: str, *, net: str = "resnet_v2", size: int = 32, pixels: str = "original") -> Preprocess:
    return preprocess_of(
        Config(
            net=NetConfig(name=net, image_size=size),
            data=DataConfig(dataset=dataset, pixels=pixels),
        )
    )


def test_every_data_set_and_network_has_its_own_way():
    assert way("cifar10") == Preprocess(side=32, shorter=32, recipe="small", colours=CIFAR)
    assert way("cifar10", pixels="imagenet").colours == IMAGENET
    assert way("tiny") == way("cifar10")
    ilsvrc = way("ilsvrc12", size=224)
    assert ilsvrc == Preprocess(side=224, shorter=256, recipe="large", colours=ILSVRC)
    assert way("folder", size=224) == ilsvrc
    assert way("folder") == way("cifar10")
    torchvision = way("ilsvrc12", net="torchvision:resnet18", size=224, pixels="imagenet")
    assert torchvision == replace(ilsvrc, colours=IMAGENET, resample="bilinear")
    for name in ("voc", "tiny_voc"):
        found = way(name, net="ssd_vgg16", size=300)
        assert found == Preprocess(side=300, shorter=300, recipe="whole", colours=ILSVRC, bgr=True)


def test_what_timm_says_of_a_network_is_believed():
    from timm.models import get_pretrained_cfg

    told = get_pretrained_cfg("mobilenetv3_small_100")
    assert told is not None
    found = way("ilsvrc12", net="timm:mobilenetv3_small_100", size=224, pixels="imagenet")
    assert found.resample == told.interpolation
    assert found.colours.mean == tuple(told.mean)
    assert found.shorter == int(224 / told.crop_pct)
    assert way("ilsvrc12", net="timm:mobilenetv3_small_100", size=224).colours == ILSVRC
    unknown = way("ilsvrc12", net="timm:no_such_network", size=224, pixels="imagenet")
    assert unknown.colours == IMAGENET


def test_a_way_survives_as_plain_data():
    for found in (way("cifar10", pixels="imagenet"), way("voc", net="ssd_vgg16", size=300)):
        assert from_plain(Preprocess, to_plain(found)) == found


def test_a_small_picture_is_only_normalised_and_a_large_one_made_small():
    small = way("cifar10")
    assert np.array_equal(small.picture(SMALL).numpy(), CIFAR(SMALL).transpose(2, 0, 1))
    found = small.picture(LARGE)
    assert found.shape == (3, 32, 32)
    assert np.array_equal(found.numpy(), CIFAR(central_crop(LARGE, 32, 32)).transpose(2, 0, 1))


def test_a_detector_takes_the_whole_picture_blue_first():
    found = way("voc", net="ssd_vgg16", size=300).picture(LARGE)
    whole = ILSVRC(resize_bilinear_tf1(LARGE, 300, 300))
    assert np.array_equal(found.numpy(), whole[:, :, ::-1].transpose(2, 0, 1))


class Fixed:
    """Draws that leave a picture in its middle, unmirrored."""

    def random(self) -> float:
        return 0.5

    def randint(self, a: int, b: int) -> int:
        return (a + b) // 2


def test_training_without_a_shift_is_evaluation_and_otherwise_is_not():
    small = way("cifar10")
    assert torch.equal(small.training_picture(SMALL, Fixed()), small.picture(SMALL))
    large = way("ilsvrc12", size=96)
    made = [large.training_picture(LARGE) for _ in range(3)]
    assert all(picture.shape == (3, 96, 96) for picture in made)
    assert not torch.equal(made[0], made[1])
    blue_first = replace(small, bgr=True)
    assert torch.equal(blue_first.training_picture(SMALL, Fixed()), small.picture(SMALL).flip(0))
    with pytest.raises(ValueError, match="together with their boxes"):
        way("voc", net="ssd_vgg16", size=300).training_picture(LARGE)


def test_sizes_and_words_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="recipe is 'huge', expected one of small, large, whole"):
        Preprocess(side=32, shorter=32, recipe="huge")
    with pytest.raises(UserError, match="resample is 'cubic', expected one of tf1"):
        Preprocess(side=32, shorter=32, recipe="small", resample="cubic")
    with pytest.raises(UserError, match="side is 32 and shorter 30, expected"):
        Preprocess(side=32, shorter=30, recipe="small")
