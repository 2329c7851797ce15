"""What is fast here, beside the original's straightforward way: ``python -m expansionnet.bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prunelab.bench
from expansionnet import bench_decode, bench_train
from prunelab.bench import Result
from prunelab.errors import entry

ROWS: dict[str, Callable[[], Result | list[Result]]] = {**bench_decode.ROWS, **bench_train.ROWS}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    prunelab.bench.main("expansionnet bench", ROWS, argv)


if __name__ == "__main__":
    main()
