import hashlib

import numpy as np
import pytest

from prunelab.data import synthetic
from prunelab.data.segmentation import check_labels, read_list, read_sample
from prunelab.data.synthetic.scenes import VOID
from prunelab.data.synthetic.streets import CLASSES, COLOURS, make_street, write
from prunelab.errors import UserError

SCENES = [make_street(0, number) for number in range(40)]


def test_streets_are_those_of_every_other_machine():
    digest = hashlib.sha256()
    for image, labels in SCENES[:8]:
        digest.update(image.tobytes())
        digest.update(labels.tobytes())
    assert digest.hexdigest() == "993e4f63e7bbbeb926d1c2e6d58c571878bbf2a2907a5ca2cbaf724be9f12285"


def test_all_classes_occur_and_edges_are_void():
    labels = np.stack([labels for _, labels in SCENES])
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert len(COLOURS) == len(CLASSES)
    assert (share[: len(CLASSES)] > 0.02).all()
    assert share[: len(CLASSES)].max() < 0.5
    assert 0.03 < share[VOID] < 0.15
    assert share[len(CLASSES) : VOID].sum() == 0
    inner = (labels[:, :, 1:] != labels[:, :, :-1]) & (labels[:, :, 1:] != VOID) & (labels[:, :, :-1] != VOID)
    assert not inner.any()


def test_colours_tell_much_but_not_all():
    pixels = np.concatenate([image[labels != VOID] for image, labels in SCENES]) / 255
    labels = np.concatenate([labels[labels != VOID] for _, labels in SCENES])
    means = np.stack([pixels[labels == c].mean(axis=0) for c in range(len(CLASSES))])
    nearest = ((pixels[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.6 < (nearest == labels).mean() < 0.9


@pytest.mark.parametrize("size", [(33, 41), (96, 128)])
def test_streets_of_other_sizes_show_the_same(size):
    height, width = size
    image, labels = make_street(0, 3, height=height, width=width)
    assert image.shape == (height, width, 3)
    rows, columns = (np.arange(n) * s // n for n, s in zip(size, (48, 64), strict=True))
    small = SCENES[3][1][rows[:, None], columns[None]]
    known = (small != VOID) & (labels != VOID)
    assert (small == labels)[known].mean() > 0.95


def test_the_real_readers_read_the_embedded_set(tmp_path):
    folder = synthetic.cached("streets", cache_dir=tmp_path, train=5, val=2, test=3, height=24, width=32)
    samples = {
        split: read_list(folder / f"list/{split}.txt", folder, split if split != "test" else "val")
        for split in ("train", "val", "test")
    }
    assert {split: len(found) for split, found in samples.items()} == {"train": 5, "val": 2, "test": 3}
    for place, sample in enumerate(samples["test"]):
        image, labels = make_street(0, 100_000 + place, height=24, width=32)
        read = read_sample(sample)
        assert np.array_equal(read[0], image)
        assert np.array_equal(read[1], labels)
    assert check_labels(samples["train"], len(CLASSES), VOID)["missing"] == []
    with pytest.raises(UserError, match="is not empty"):
        write(folder)
