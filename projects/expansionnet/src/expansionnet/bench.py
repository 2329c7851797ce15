"""What is fast here, beside the original's straightforward way: ``python -m expansionnet.bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prunelab.bench
from expansionnet.benches import decode, step
from prunelab.bench import Result
from prunelab.errors import entry

ROWS: dict[str, Callable[[], Result | list[Result]]] = {**decode.ROWS, **step.ROWS}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    prunelab.bench.main("expansionnet bench", ROWS, argv)


if __name__ == "__main__":
    main()
