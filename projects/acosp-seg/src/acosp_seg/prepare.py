"""``prepare``: published data sets, and pictures of your own, as list files and labels that training reads.

Labels are class ids 0 to K - 1 and one more for pixels without a class; what a source has instead is mapped
here, once, and never while training. Nothing of the source is changed: new labels have a folder or a name of
their own. Pictures stay where they are, or are linked (copied, between disks) into another output folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from acosp_seg.cli import parse_prepare
from acosp_seg.data import fetch_cifar10
from acosp_seg.layout import data_root
from acosp_seg.options import PrepareOptions
from acosp_seg.palette import read_names, table_file
from prunelab.data.cifar import open_cifar
from prunelab.data.segmentation import (
    Sample,
    check_labels,
    find_pictures,
    pair_by_name,
    read_image,
    read_label,
    read_list,
    write_list,
)
from prunelab.errors import UserError, entry

VOID = 255
REFUSED = -1
"""In a table of new labels: a value that the source should not have."""
IGNORED = {"camvid": 11}
"""Label of pixels without a class, where it is not 255."""
LISTS = {"ade20k": ("training", "validation"), "cityscapes": ("fine_train", "fine_val")}
"""List files that training and validation read, where they are not called train and val."""

_CITY = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
_CITY |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
TRAIN_IDS = np.array([_CITY.get(i, VOID if i < 34 or i == VOID else REFUSED) for i in range(256)])
"""Training id of each label id of Cityscapes; id -1, a licence plate, is 255 in files."""

SEGNET_ORDER = (
    *("Sky", "Building", "Column_Pole", "Road", "Sidewalk", "Tree"),
    *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
"""Classes of CamVid in the order of the ids of the files that the authors of SegNet gave away."""
CAMVID_COLORS = {
    "Building": ("128 0 0", "64 192 0", "64 0 64", "192 0 128", "0 128 64"),
    "Tree": ("128 128 0", "192 192 0"),
    "Sky": ("128 128 128",),
    "Car": ("64 0 128", "64 128 192", "192 128 192", "192 64 128", "128 64 64"),
    "SignSymbol": ("192 128 128", "128 128 64", "0 64 64"),
    "Road": ("128 64 128", "128 0 192", "192 0 64"),
    "Pedestrian": ("64 64 0", "192 128 64", "64 0 192", "64 128 64"),
    "Fence": ("64 64 128",),
    "Column_Pole": ("192 192 128", "0 0 64"),
    "Sidewalk": ("0 0 192", "64 192 128", "128 128 192"),
    "Bicyclist": ("0 128 192", "192 0 192"),
}
"""Colours of CamVid's 32 classes (red, green, blue) by the 11 classes that they are usually joined to; black
is without a class."""


@dataclass(frozen=True)
class Item:
    """A picture and its label in a source, and the path of the new label below the output folder."""

    image: Path
    label: Path
    target: Path


Reader = Callable[[Path], np.ndarray]
"""Reads a label file of a source and gives the new label map (H, W) uint8."""
Plan = dict[str, list[Item]]
"""Items by the name of the list file that will hold them."""


def mapped(table: np.ndarray, ignore: int) -> Reader:
    """A reader that replaces each value by its entry of a table (256), and 255 there by ``ignore``.

    Raises (when it reads):
        UserError: a label file cannot be read, or has a value whose entry is `REFUSED`.
    """
    table = np.where(table == VOID, ignore, table)

    def read(path: Path) -> np.ndarray:
        label = read_label(path)
        new = table[label]
        if (new == REFUSED).any():
            values = ", ".join(map(str, np.unique(label[new == REFUSED])[:8]))
            known = ", ".join(_ranges(np.flatnonzero(table != REFUSED)))
            raise UserError(f"{path}: label values {values}, expected {known}")
        return new.astype(np.uint8)

    return read


def _ranges(values: np.ndarray) -> Iterable[str]:
    for part in np.split(values, np.flatnonzero(np.diff(values) > 1) + 1):
        yield str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}"


def _table(pairs: dict[int, int]) -> np.ndarray:
    return np.array([pairs.get(i, REFUSED) for i in range(256)])


def _ade20k(source: Path, ignore: int) -> tuple[Plan, Reader]:
    """``images`` and ``annotations`` with folders training and validation; 0 is void, n is class n - 1."""
    plan: Plan = {}
    for split in LISTS["ade20k"]:
        pairs = pair_by_name(source / "images" / split, source / "annotations" / split)
        plan[split] = [Item(p.image, p.label, Path("labels") / split / p.label.name) for p in pairs]
    return plan, mapped(_table({0: VOID} | {n: n - 1 for n in range(1, 151)}), ignore)


def _voc2012(source: Path, ignore: int) -> tuple[Plan, Reader]:
    """``JPEGImages``, ``SegmentationClass`` and, for train_aug, ``SegmentationClassAug``."""
    own, more = source / "SegmentationClass", source / "SegmentationClassAug"
    lists = source / "ImageSets" / "Segmentation"
    plan: Plan = {}
    if more.is_dir():
        validation = set(_stems(lists / "val.txt"))
        listed = lists / "train_aug.txt"
        known = _stems(listed) if listed.is_file() else sorted(p.stem for p in more.glob("*.png"))
        plan["train_aug"] = [_voc_item(source, more, stem) for stem in known if stem not in validation]
    for name in ("train", "val"):
        plan[name] = [_voc_item(source, own, stem) for stem in _stems(lists / f"{name}.txt")]
    return plan, mapped(_table({n: n for n in range(21)} | {VOID: VOID}), ignore)


def _voc_item(source: Path, folder: Path, stem: str) -> Item:
    name = f"{stem}.png"
    return Item(source / "JPEGImages" / f"{stem}.jpg", folder / name, Path("labels") / folder.name / name)


def _stems(path: Path) -> list[str]:
    try:
        # A line is a name, or the paths of a picture and its label.
        return [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: no such list, expected names of pictures, one a line") from error


def _cityscapes(source: Path, ignore: int) -> tuple[Plan, Reader]:
    """``leftImg8bit`` and ``gtFine`` with folders train and val of cities."""
    plan: Plan = {}
    for split, name in zip(("train", "val"), LISTS["cityscapes"], strict=True):
        items = []
        for image in find_pictures(source / "leftImg8bit" / split):
            city, stem = image.parent.name, image.stem.removesuffix("_leftImg8bit")
            target = Path("gtFine") / split / city / f"{stem}_gtFine_labelTrainIds.png"
            label = source / target.with_name(f"{stem}_gtFine_labelIds.png")
            items.append(Item(image, label, target))
        plan[name] = items
    return plan, mapped(TRAIN_IDS, ignore)


def _camvid(source: Path, ignore: int) -> tuple[Plan, Reader]:
    """``train``, ``val``, ``test``, with labels in ``trainannot``, ...: ids of SegNet's files, or colours."""
    plan: Plan = {}
    for split in ("train", "val", "test"):
        pairs = pair_by_name(source / split, source / f"{split}annot")
        plan[split] = [Item(p.image, p.label, Path("labels") / split / p.label.name) for p in pairs]
    order = {name: number for number, name in enumerate(CAMVID_COLORS)}
    ids = {n: order[name] for n, name in enumerate(SEGNET_ORDER)}
    by_id = mapped(_table(ids | {len(ids): VOID, VOID: VOID}), ignore)
    colors = {tuple(map(int, c.split())): order[n] for n, cs in CAMVID_COLORS.items() for c in cs}
    codes = np.array([(r << 16) + (g << 8) + b for r, g, b in [*colors, (0, 0, 0)]])
    labels = np.array([*colors.values(), ignore])

    def read(path: Path) -> np.ndarray:
        if _is_grey(path):
            return by_id(path)
        return _from_colors(path, codes, labels)

    return plan, read


def _is_grey(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError as error:
        raise UserError(f"{path}: no such label map") from error
    return len(head) == 26 and head[25] in (0, 3)  # colour type of a PNG file: grey, or a palette


def _from_colors(path: Path, codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label map of a coloured one: ``labels[i]`` where the colour is ``codes[i]``."""
    pixels = read_image(path).astype(np.int64)
    found = (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]  # (H, W)
    order = np.argsort(codes)
    place = order[np.searchsorted(codes, found, sorter=order).clip(max=len(codes) - 1)]
    wrong = codes[place] != found
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise UserError(f"{path}: colour {pixels[y, x].tolist()} is none of CamVid's classes")
    return labels[place].astype(np.uint8)


SOURCES: dict[str, Callable[[Path, int], tuple[Plan, Reader]]] = {
    "ade20k": _ade20k,
    "voc2012": _voc2012,
    "cityscapes": _cityscapes,
    "camvid": _camvid,
}


def _folder_lists(source: Path, share: float) -> dict[str, list[Sample]]:
    """Pictures of a folder of one's own: given splits, or every n-th one for validation."""
    images, labels = source / "images", source / "labels"
    if (images / "train").is_dir():
        splits = [s for s in ("train", "val", "test") if (images / s).is_dir()]
        return {s: pair_by_name(images / s, labels / s) for s in splits}
    samples = pair_by_name(images, labels)
    held = {int((i + 0.5) / share) for i in range(int(len(samples) * share))} if share else set()
    if share and not held:
        raise UserError(f"val_share is {share}: none of {len(samples)} pictures, expected one or more")
    return {
        "train": [s for i, s in enumerate(samples) if i not in held],
        "val": [s for i, s in enumerate(samples) if i in held],
    }


def write_label(label: np.ndarray, path: Path) -> None:
    """Write a label map (H, W) uint8 as a grey PNG file.

    Raises:
        UserError: it cannot be written.
    """
    data = cv2.imencode(".png", label)[1].tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _bring(image: Path, target: Path) -> None:
    """Put a picture under another path: a second name of the same file, or a copy."""
    if target.exists() and target.samefile(image):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(image, target)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(image, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error


def _make(items: Sequence[Item], read: Reader, source: Path, target: Path) -> list[Sample]:
    """Write the labels of one list and bring its pictures; several at a time."""

    def one(item: Item) -> Sample:
        image = target / item.image.relative_to(source)
        if not item.image.is_file():
            raise UserError(f"{item.image}: no such picture")
        write_label(read(item.label), target / item.target)
        _bring(item.image, image)
        return Sample(image, target / item.target)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(one, items))
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise


def source_folder(options: PrepareOptions) -> Path:
    """The folder that a command line means.

    Raises:
        UserError: it does not exist.
    """
    source = Path(options.source or data_root() / options.dataset).expanduser()
    if not source.is_dir():
        raise UserError(f"source {source}: no such folder, expected the unpacked data set {options.dataset}")
    return source


def prepare(options: PrepareOptions) -> dict[str, int]:
    """Write labels and list files of a data set; the list files come last, so that a half-made set has none.

    Returns:
        Samples of each list file.

    Raises:
        UserError: a folder, a picture or a label is missing, damaged, or holds what it should not.
    """
    if options.dataset == "cifar10":
        return _prepare_cifar10(options)
    source = source_folder(options)
    target = Path(options.output).expanduser() if options.output else source
    if options.check:
        return check(options, target)
    ignore = VOID if options.ignore_label is None else options.ignore_label
    if options.dataset == "folder":
        lists = _folder_lists(source, options.val_share)
    else:
        if options.ignore_label is None:
            ignore = IGNORED.get(options.dataset, VOID)
        plan, read = SOURCES[options.dataset](source, ignore)
        if options.dry_run:
            return {name: len(items) for name, items in plan.items()}
        lists = {name: _make(items, read, source, target) for name, items in plan.items()}
    if not options.dry_run:
        for name, samples in lists.items():
            write_list(target / "list" / f"{name}.txt", samples, target)
    return {name: len(samples) for name, samples in lists.items()}


def _prepare_cifar10(options: PrepareOptions) -> dict[str, int]:
    folder = Path(options.output or options.source or data_root() / "cifar10").expanduser()
    if not (options.check or options.dry_run):
        fetch_cifar10(folder)
    return {split: len(open_cifar(folder, split)) for split in ("train", "test")}


def check(options: PrepareOptions, folder: Path) -> dict[str, int]:
    """Look at the labels of every list file of a prepared folder.

    Returns:
        Label files of each list file that were looked at.

    Raises:
        UserError: there is no list file, or a label file does not fit.
    """
    files = sorted((folder / "list").glob("*.txt"))
    if not files:
        raise UserError(f"{folder / 'list'}: no list files, expected those that `prepare` writes")
    names = table_file(dataset=options.dataset)
    void = options.ignore_label if options.ignore_label is not None else IGNORED.get(options.dataset, VOID)
    # The classes of one's own folder are known to its configuration only: look for what no class can be.
    classes = len(read_names(names)) if names else VOID
    found = {}
    for file in files:
        samples = read_list(file, folder, "val")
        samples = samples if options.limit < 0 else samples[: options.limit]
        report = check_labels(samples, classes, void)
        used = [c for c in range(classes) if report["pixels"][c]]
        print(f"{file}: {report['files']} label files, classes {', '.join(_ranges(np.array(used)))}")
        found[file.stem] = report["files"]
    return found


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``prepare``."""
    options = parse_prepare(argv)
    found = prepare(options)
    verb = "checked" if options.check else "found" if options.dry_run else "ready"
    print(f"{options.dataset} {verb}: " + ", ".join(f"{name} {count}" for name, count in found.items()))
    if options.dataset == "voc2012" and not options.check and "train_aug" not in found:
        print(
            "no SegmentationClassAug: the published configurations train on train_aug.txt, which is not made"
        )


if __name__ == "__main__":
    main()
