"""``bench``: training and decoding beside the original's plain way.

Rows whose note quotes a time of the original have the sizes for which it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prunelab.bench
from prunelab.bench import Result
from prunelab.errors import entry
from smp_caption.benches import decode, scst, step

ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    **step.ROWS,
    **decode.ROWS,
    **scst.ROWS,
}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    prunelab.bench.main("smp-caption bench", ROWS, argv)


if __name__ == "__main__":
    main()
