"""Where runs lie, and the newest model in them."""

from __future__ import annotations

import os
from pathlib import Path


def runs_root() -> Path:
    """Where runs lie that name no folder: PRUNELAB_RUNS, else ``runs`` in the working folder."""
    return Path(os.environ.get("PRUNELAB_RUNS") or "runs")


def newest_model(*roots: Path, kind: str = "best") -> Path | None:
    """The model folder of this name that was written last in any run, stage or tour; None: there is none.

    Args:
        roots: Where runs lie.
        kind: Name of the folder in a run.
    """
    found = [
        file
        for root in roots
        for depth in ("*", "*/*", "*/*/*")
        for file in root.glob(f"{depth}/{kind}/config.json")
    ]
    return max(found, key=lambda file: file.stat().st_mtime).parent if found else None
