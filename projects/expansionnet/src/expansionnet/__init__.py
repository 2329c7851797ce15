"""expansionnet: captions for pictures by ExpansionNet v2.

```python
import expansionnet

m = expansionnet.load("runs/tour-001/scst/best")
print(m.caption("cat.jpg"))
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from expansionnet.captioner import Captioner

__version__ = "0.1.0"


def load(path: str | Path, *, device: str = "cpu") -> Captioner:
    """Load a captioner from a model folder, a run, a tour, or a checkpoint of the original.

    Args:
        path: the folder or file.
        device: where the network goes.

    Raises:
        prunelab.errors.UserError: nothing is there, or it is no captioning model.
    """
    from expansionnet.captioner import load as load_any

    return load_any(path, device=device)
