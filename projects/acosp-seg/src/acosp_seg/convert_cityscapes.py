"""``convert_cityscapes``: label ids of Cityscapes into the 19 training ids, or back, folder by folder.

The original's small tool; ``prepare cityscapes`` does the same and writes list files too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from acosp_seg.cli import parse_convert_cityscapes
from acosp_seg.options import CityscapesOptions
from acosp_seg.prepare import REFUSED, TRAIN_IDS, VOID, mapped, write_label
from prunelab.errors import UserError, entry

UNLABELLED = 0
"""Label id of pixels whose training id is that of no class."""


def label_ids() -> np.ndarray:
    """Label id of each training id; pixels without a class become unlabelled."""
    back = np.full(256, REFUSED)
    for label_id, train_id in enumerate(TRAIN_IDS):
        if train_id not in (VOID, REFUSED):
            back[train_id] = label_id
    back[VOID] = UNLABELLED
    return back


def convert(options: CityscapesOptions) -> list[Path]:
    """Convert every file of the input folder with the wanted end of its name, under the same name.

    Returns:
        The files, written unless ``dry_run``.

    Raises:
        UserError: the input folder holds none, or a file has a value that is none of Cityscapes'; input and
            output are one folder.
    """
    source, target = Path(options.input_dir), Path(options.output_dir)
    if options.dry_run:
        return []
    if source.resolve() == target.resolve():
        raise UserError(f"output_dir is {target}, expected another folder than input_dir")
    files = sorted(source.rglob(f"*{options.img_postfix}"))
    if not files:
        raise UserError(f"{source}: no files *{options.img_postfix}, expected label maps of Cityscapes")
    read = mapped(TRAIN_IDS if options.to_19 else label_ids(), VOID)
    written = [target / file.relative_to(source) for file in files]
    for file, place in zip(files, written, strict=True):
        write_label(read(file), place)
    return written


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``convert_cityscapes``."""
    options = parse_convert_cityscapes(argv)
    written = convert(options)
    if options.dry_run:
        print(f"convert_cityscapes: {options}")
    else:
        print(f"wrote {len(written)} label maps to {options.output_dir}")


if __name__ == "__main__":
    main()
