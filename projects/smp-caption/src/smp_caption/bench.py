"""``bench``: training and decoding beside the original's plain way.

Rows whose note quotes a time of the original have the sizes for which it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prunelab.bench
from prunelab.bench import Result
from prunelab.errors import entry
from smp_caption import bench_decode, bench_scst, bench_step
from smp_caption.cli import parse_bench

ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    **bench_step.ROWS,
    **bench_decode.ROWS,
    **bench_scst.ROWS,
}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench``."""
    options = parse_bench(argv)
    if options.list:
        print("\n".join(ROWS))
        return
    prunelab.bench.measure(
        ROWS,
        options.names,
        rounds=options.rounds,
        threads=options.threads,
        json=options.json,
        json_table=options.json_table,
    )


if __name__ == "__main__":
    main()
