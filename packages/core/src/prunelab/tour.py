"""How a tour begins and ends: one line that says what it is, a table, and what to look at and to try next.

A tour is what a project's ``train`` does when it is called alone: a few runs on embedded data, side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from prunelab import dist
from prunelab.report import Table
from prunelab.runfolder import tour_folder


def begin_tour(what: str, root: Path, output: str = "", *, resume: bool = False) -> Path:
    """Say what the tour does and give its folder, the same in all processes.

    Args:
        what: What is trained on what, for the line that says so: "a dense and a pruned network on ...".
        root: Where runs lie.
        output: The folder as typed; empty: a new numbered one, or the newest to go on with.
        resume: Whether to go on.

    Raises:
        UserError: ``resume`` and there is no tour.
    """
    # So small a model gains nothing from a second thread, and loses a lot where the machine is busy.
    torch.set_num_threads(1)
    folder = dist.on_main(lambda: tour_folder(root, output, resume=resume))
    if dist.is_main():
        print(
            f"train without arguments is the tour: {what}, about two minutes on two CPU cores "
            f"(train --help lists the rest). Folder: {folder}"
        )
    return folder


def end_tour(table: Table, places: Iterable[tuple[str, Path]], *commands: str) -> None:
    """Print what came out: the table, a line for each thing that was written, and what to try next.

    Args:
        table: Quality, size and speed.
        places: What lies where.
        commands: The next things to type.
    """
    print()
    table.print()
    print()
    for what, where in places:
        print(f"{what}: {where}")
    for command in commands:
        print(f"next: {command}")
