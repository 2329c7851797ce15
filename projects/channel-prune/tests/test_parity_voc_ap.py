"""Average precision: recorded numbers of the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prunelab.metrics.detection import ClassScore, DetectionScores, VocDetectionMeter
from testing.parity import Folder, of_kind


def metered(folder: Folder, recorded: dict[str, Any]) -> DetectionScores:
    """The recorded detections and objects through the meter."""
    facts = folder.facts
    classes: list[str] = facts["classes"]
    meter = VocDetectionMeter(
        classes,
        iou_threshold=facts["iou_threshold"],
        gt_offset=facts["gt_offset"],
        empty_class_ap=True,
        stable=False,
    )
    rows: dict[str, list[list[float]]] = {picture: [] for picture in recorded["gt"]}
    for name, found in recorded["det"].items():
        for picture, *values in found:
            rows[picture].append([classes.index(name) + 1, *values])
    for picture, objects in recorded["gt"].items():
        table = np.array(rows[picture], np.float64).reshape(-1, 6)
        mine = [o for o in objects if o["name"] in classes]
        meter.update(
            picture,
            (table[:, 0], table[:, 1], table[:, 2:]),
            (
                np.array([classes.index(o["name"]) + 1 for o in mine], np.int64),
                np.array([o["box"] for o in mine], np.float64).reshape(-1, 4),
                np.array([o["difficult"] for o in mine], bool),
            ),
        )
    return meter.merged().scores()


def check_class(found: ClassScore, expected: dict[str, Any], name: str, limit: float) -> None:
    for kind, value in (("rec", found.recall), ("prec", found.precision)):
        wanted = np.array([np.nan if v is None else v for v in expected[f"{name}_{kind}"]], np.float64)
        np.testing.assert_allclose(value, wanted, atol=limit, rtol=0)
    for kind, value in (("voc07", found.voc07), ("area", found.integral)):
        wanted = expected[f"{name}_{kind}"]
        assert value == pytest.approx(np.nan if wanted is None else wanted, abs=limit, nan_ok=True)


@pytest.mark.parity
@of_kind("voc_ap")
def test_recall_precision_and_both_average_precisions_agree(folder: Folder) -> None:
    limit = folder.tolerance["abs"]
    for file in folder.facts["files"]:
        recorded = folder.json(file)
        found = metered(folder, recorded)
        expected = recorded.get("expected", recorded)
        for name in folder.facts["classes"]:
            if recorded["det"].get(name):
                check_class(found.classes[name], expected, name, limit)
            else:  # the original says -1 of a class without a detection, which spoils its mean
                assert found.voc07[name] == 0
        # A class with nothing to find enters the mean of the original with 0.
        mean = np.mean([max(expected.get(f"{name}_voc07", -1.0), 0.0) for name in folder.facts["classes"]])
        assert found.map_voc07 == pytest.approx(mean, abs=limit)
