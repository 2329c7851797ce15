"""Supermask pruning of image captioning models.

```python
import smp_caption

m = smp_caption.load("runs/tour-001/pruned/best")
print(m.caption("cat.jpg"))
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from smp_caption.captioner import Captioner

__version__ = "0.1.0"


def load(path: str | Path, *, device: str = "cpu") -> Captioner:
    """Load a captioner from a model folder, a run, or a checkpoint of the original.

    Args:
        path: the folder or file.
        device: where the network goes.

    Raises:
        prunelab.errors.UserError: nothing is there, or it is no captioning model.
    """
    from pathlib import Path

    from smp_caption.files.original import load as load_any

    return load_any(Path(path), device=device)
