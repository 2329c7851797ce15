"""``convert_cityscapes``: label ids of Cityscapes into the ids that training knows, or back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from acosp_seg.cli import parse_convert_cityscapes
from acosp_seg.options import CityscapesOptions
from acosp_seg.prepare import REFUSED, TRAIN_IDS, VOID, mapped, write_label
from prunelab.errors import UserError, entry


def label_ids() -> np.ndarray:
    """Label id of each training id (256); what has no training id becomes 0, unlabeled."""
    back = {int(train_id): label_id for label_id, train_id in enumerate(TRAIN_IDS) if train_id < VOID}
    return np.array([0 if i == VOID else back.get(i, REFUSED) for i in range(256)])


def convert_cityscapes(options: CityscapesOptions) -> int:
    """Map label ids of Cityscapes to training ids, or back, in all files of a folder and its sub-folders.

    Returns:
        Number of files.

    Raises:
        UserError: there are none, the output is the input, or a value is no id.
    """
    source, target = Path(options.input_dir), Path(options.output_dir)
    files = sorted(p for p in source.rglob(f"*{options.img_postfix}") if p.is_file())
    if not files:
        raise UserError(f"input_dir {source}: no files *{options.img_postfix}, expected label maps")
    if source.resolve() == target.resolve():
        raise UserError(
            f"output_dir {target} is the input_dir, expected another folder: nothing is overwritten"
        )
    read = mapped(TRAIN_IDS if options.to_19 else label_ids(), VOID)
    if not options.dry_run:
        for file in files:
            write_label(read(file), target / file.relative_to(source))
    return len(files)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``convert_cityscapes``."""
    options = parse_convert_cityscapes(argv)
    count = convert_cityscapes(options)
    print(f"{count} label maps {'found' if options.dry_run else f'written to {options.output_dir}'}")


if __name__ == "__main__":
    main()
