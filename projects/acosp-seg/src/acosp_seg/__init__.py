"""ACoSP: segmentation networks that compress themselves while they train.

```python
import acosp_seg

m = acosp_seg.load("runs/tour-001/compact")
m.overlay("street.jpg").save("overlay.png")
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from acosp_seg.segmenter import Segmenter

__version__ = "0.1.0"


def load(path: str | Path, *, device: str = "cpu") -> Segmenter:
    """Load a network from a model folder, a run, or a file of the original.

    Args:
        path: the folder or file.
        device: where the network goes.

    Raises:
        prunelab.errors.UserError: nothing is there, or it is no network of this project.
    """
    from acosp_seg.loading import load as load_any

    return load_any(path, device=device)
