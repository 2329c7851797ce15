"""``python -m prunelab.bench``: the core's rows."""

from __future__ import annotations

from collections.abc import Sequence

import prunelab.bench
from prunelab.errors import entry


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows of the modules ``prunelab.bench.rows_*``."""
    prunelab.bench.main("python -m prunelab.bench", prunelab.bench.discover(prunelab.bench), argv)


if __name__ == "__main__":
    main()
