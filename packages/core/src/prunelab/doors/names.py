"""Unknown names: which known ones were meant?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], *, most: int = 3) -> list[str]:
    """The known names that look most like ``name``, best first; case and ``-``/``_`` do not count."""
    plain: dict[str, str] = {}
    for known in names:
        plain.setdefault(_plain(known), known)
    wanted = _plain(name)
    found = difflib.get_close_matches(wanted, plain, n=most, cutoff=0.6)
    # a name that contains the other one is near even where their lengths are far apart
    inside = [key for key in plain if _inside(wanted, key) or _inside(key, wanted)]
    return [plain[key] for key in dict.fromkeys([*found, *sorted(inside, key=len)])][:most]


def _plain(name: str) -> str:
    return name.strip().lstrip("-").lower().replace("-", "_")


def _inside(short: str, long: str) -> bool:
    return len(short) >= 3 and short in long


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error line about an unknown name: the nearest known ones, or all of them if none is near.

    Example:
        >>> did_you_mean("lr_shedule", ["lr_schedule", "epochs"])
        'did you mean lr_schedule?'
    """
    known = list(dict.fromkeys(names))
    near = nearest(name, known)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"expected one of: {', '.join(known)}" if known else "nothing is expected here"
