"""Where an embedded data set is written: never among other files."""

from __future__ import annotations

from pathlib import Path

from prunelab.errors import UserError
from prunelab.util import StrPath


def empty_folder(folder: StrPath) -> Path:
    """The folder of a data set that is to be written; it need not be there yet.

    Raises:
        UserError: the folder holds something already.
    """
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: is not empty; expected a new folder for the embedded data set")
    return root
