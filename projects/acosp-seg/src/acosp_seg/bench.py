"""What is fast here, beside the original's straightforward way: ``python -m acosp_seg.bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prunelab.bench
from acosp_seg.benches import compact, data, mask, predict
from prunelab.bench import Result
from prunelab.errors import entry

ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    **compact.ROWS,
    **mask.ROWS,
    **predict.ROWS,
    **data.ROWS,
}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    prunelab.bench.main("acosp-seg bench", ROWS, argv)


if __name__ == "__main__":
    main()
