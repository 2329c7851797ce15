"""What is fast here, beside the original's straightforward way: ``python -m channel_prune.bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prunelab.bench
from channel_prune.benches import choose, data, slim
from prunelab.bench import Result
from prunelab.errors import entry

ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    **choose.ROWS,
    **slim.ROWS,
    **data.ROWS,
}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    prunelab.bench.main("channel-prune bench", ROWS, argv)


if __name__ == "__main__":
    main()
