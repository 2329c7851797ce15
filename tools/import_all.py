"""Import every module of a package: `import_all.py PACKAGE`.

Run it in an environment that has the package and what it declares, nothing else: an import of something
undeclared fails here, and so does a file that the wheel lacks.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys


def import_all(package: str) -> int:
    """Import ``package`` and all modules below it, but for ``__main__``; returns how many."""
    root = importlib.import_module(package)
    names = [m.name for m in pkgutil.walk_packages(root.__path__, f"{package}.")]
    for name in names:
        if not name.endswith(".__main__"):
            importlib.import_module(name)
    return len(names) + 1


if __name__ == "__main__":
    print(f"{sys.argv[1]}: {import_all(sys.argv[1])} modules import alone")
