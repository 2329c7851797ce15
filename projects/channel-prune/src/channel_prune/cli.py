"""The command lines: what was typed, as plain data. A flag that was not typed is not in it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from channel_prune.config import PRESETS
from prunelab.doors import Parser


def parse(command: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the arguments of `train`, `test` or `demo`.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    parser = Parser(
        f"channel-prune {command}",
        "channel-prune: LASSO channel pruning, with slim networks that are faster",
        version=metadata.version("channel-prune"),
        argument_default=argparse.SUPPRESS,
    )
    parser.add_own_argument("--output", help="the run's folder")
    parser.add_own_argument("--device", help="auto, cpu, cuda")
    parser.add_own_argument("--dry-run", action="store_true", help="print the config and stop")
    if command == "train":
        parser.add_argument("--learning_rate", type=float)
        parser.add_argument("--batch_size", type=int)
        parser.add_argument("--epochs", type=int)
        parser.add_argument("--width", type=int)
        parser.add_own_argument("--seed", type=int)
        parser.add_own_argument("--max-steps", type=int)
        parser.add_own_argument("--resume", action="store_true", help="go on from the newest checkpoint")
        parser.add_own_argument("--preset", choices=PRESETS)
    return vars(parser.parse_args(argv))
