"""SPICE 1.0, computed by the Java program that pycocoevalcap carries, where its parser's models are."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunelab.caption.java import Unavailable, find_folder, find_java, run_java

_JAR = "spice-1.0.jar"
_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def spice(
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
    *,
    timeout: float = 7200.0,
    memory: str = "8G",
) -> tuple[float, list[float]]:
    """Score one caption an image (Anderson et al., 2016): F-score over scene-graph tuples.

    Nothing is downloaded: the two CoreNLP 3.6.0 files have to lie in pycocoevalcap's folder ``spice/lib``
    (the package's ``get_stanford_models`` puts them there).

    Args:
        references: for each of B images its references.
        candidates: B captions.
        timeout: seconds after which the program is ended.
        memory: upper bound of the Java heap.

    Returns:
        The mean and the B captions' scores (NaN where the program gives none).

    Raises:
        Unavailable: no Java, no package, no models, or no result.
    """
    folder = find_folder("SPICE", "spice")
    java = find_java("SPICE")
    missing = [name for name in (_JAR,) if not (folder / name).is_file()]
    missing += [f"lib/{name}" for name in _MODELS if not (folder / "lib" / name).is_file()]
    if missing:
        raise Unavailable(
            f"SPICE needs {', '.join(missing)} in {folder}; fetch CoreNLP 3.6.0 with "
            "'python -m pycocoevalcap.spice.get_stanford_models' (some 400 MB)"
        )
    records = [
        {"image_id": number, "test": caption, "refs": list(refs)}
        for number, (refs, caption) in enumerate(zip(references, candidates, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="prunelab-spice-") as name:
        work = Path(name)
        question, answer, cache = work / "captions.json", work / "scores.json", work / "cache"
        cache.mkdir()
        question.write_text(json.dumps(records), encoding="utf-8")
        command = [java, f"-Xmx{memory}", "-jar", _JAR, str(question), "-cache", str(cache)]
        command += ["-out", str(answer), "-subset", "-silent"]
        run_java("SPICE", command, "", folder, timeout)
        scores = _read(answer, len(records))
    return (sum(scores) / len(scores) if scores else math.nan), scores


def _read(path: Path, count: int) -> list[float]:
    """The F-score over all tuples of each caption, in order."""
    try:
        found: dict[int, Any] = {
            int(item["image_id"]): item["scores"]["All"]["f"]
            for item in json.loads(path.read_text(encoding="utf-8"))
        }
        values = [found[number] for number in range(count)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"SPICE: the Java program wrote no usable scores ({error})") from error
    return [float(value) if isinstance(value, int | float) else math.nan for value in values]
