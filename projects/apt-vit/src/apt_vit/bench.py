"""What is fast here, beside the straightforward way: ``python -m apt_vit.bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prunelab.bench
from apt_vit.benches import infer, step
from prunelab.bench import Result
from prunelab.errors import entry

ROWS: dict[str, Callable[[], Result | list[Result]]] = {**infer.ROWS, **step.ROWS}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    prunelab.bench.main("apt-vit bench", ROWS, argv)


if __name__ == "__main__":
    main()
