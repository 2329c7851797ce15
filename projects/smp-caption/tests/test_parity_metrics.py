"""Caption metrics against recorded numbers of the original's scorers."""

from __future__ import annotations

import pytest

from prunelab.caption.evaluate import evaluate
from testing.parity import Folder, of_kind


@pytest.mark.parity
@of_kind("metrics")
def test_scores_of_the_corpus_and_of_each_picture_agree(folder: Folder) -> None:
    expected, tolerance = folder.json("expected.json"), folder.tolerance
    order = [str(image) for image in expected["order"]]
    predictions = {image: expected["res"][image][0] for image in order}
    scores = evaluate(expected["gts"], predictions, ["BLEU", "ROUGE_L", "CIDEr"], tokenize=False)
    assert [row["image_id"] for row in scores.per_image] == order
    recorded = {f"Bleu_{n + 1}": (value, tolerance["bleu"]) for n, value in enumerate(expected["bleu"])}
    recorded |= {
        "ROUGE_L": (expected["rouge"], tolerance["rouge"]),
        "CIDEr": (expected["cider"], tolerance["cider"]),
    }
    each = {f"Bleu_{n + 1}": values for n, values in enumerate(expected["bleu_per_image"])}
    each |= {"ROUGE_L": expected["rouge_per_image"], "CIDEr": expected["cider_per_image"]}
    assert set(scores.overall) == set(recorded)
    for name, (value, bound) in recorded.items():
        assert scores.overall[name] == pytest.approx(value, abs=bound, rel=0), name
        found = [row[name] for row in scores.per_image]
        assert found == pytest.approx(each[name], abs=bound, rel=0), name
