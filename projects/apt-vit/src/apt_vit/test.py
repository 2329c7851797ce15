"""``test``: evaluate a network: that of a run, of a model folder, or of a file of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apt_vit.evaluate import Scores
    from apt_vit.options import TestOptions


def test(options: TestOptions) -> dict[str, Scores]:
    """Evaluate a network on the test pictures, in every mode that is asked for.

    Returns:
        Scores by mode.

    Raises:
        UserError: the network or the data are missing, or do not fit each other.
    """
    raise NotImplementedError(options)
