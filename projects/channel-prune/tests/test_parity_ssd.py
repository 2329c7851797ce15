"""Anchors, matching, decoding, loss and post-processing: recorded numbers of the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from channel_prune.config import DetectConfig
from channel_prune.detect.anchors import SCALING, AnchorLayer, decode, encode, make_anchors
from channel_prune.detect.loss import loss_terms, warm_up
from channel_prune.detect.matching import Matches, match
from channel_prune.detect.postprocess import padded_detections
from channel_prune.model.ssd import decay_factor
from testing.parity import Folder, of_kind


def recorded_anchors(folder: Folder) -> Tensor:
    """Anchors of the recorded layers."""
    facts = folder.facts
    columns = ("grids", "steps", "scales", "extra_scales", "ratios")
    layers = [
        AnchorLayer(grid=grid, step=step, scale=scale, extra_scale=extra, ratios=tuple(ratios))
        for grid, step, scale, extra, ratios in zip(*(facts[column] for column in columns), strict=True)
    ]
    return make_anchors(layers, facts["image_size"])


def matched(folder: Folder, boxes: Tensor, labels: Tensor) -> Matches:
    facts = folder.facts
    return match(
        boxes,
        labels,
        recorded_anchors(folder),
        match_threshold=facts["match_threshold"],
        neg_threshold=facts["neg_threshold"],
    )


@pytest.mark.parity
@of_kind("ssd")
def test_anchors_agree(folder: Folder) -> None:
    expected = folder.arrays("anchors.npz")["anchors"]
    limit = folder.tolerance["anchors_abs"]
    torch.testing.assert_close(recorded_anchors(folder), expected, atol=limit, rtol=0)
    assert list(SCALING) == folder.facts["prior_scaling"]


@pytest.mark.parity
@of_kind("ssd")
def test_every_object_is_matched_with_the_recorded_anchors(folder: Folder) -> None:
    recorded = folder.json("match.json")
    layers = folder.facts["grids"]
    assert [len(ratios) + 1 for ratios in folder.facts["ratios"]] == recorded["depth"]
    counts = [grid**2 * depth for grid, depth in zip(layers, recorded["depth"], strict=True)]
    assert counts == recorded["num_anchors_per_layer"]
    cases = recorded["cases"]
    assert cases
    # All cases are one batch, padded to the largest: padding must not change anything.
    most = max(len(case["labels"]) for case in cases) + 1
    boxes, labels = torch.zeros(len(cases), most, 4), torch.zeros(len(cases), most, dtype=torch.int64)
    for place, case in enumerate(cases):
        count = len(case["labels"])
        boxes[place, :count] = torch.tensor(case["boxes"])
        labels[place, :count] = torch.tensor(case["labels"])
    found = matched(folder, boxes, labels)
    for place, case in enumerate(cases):
        check_match(found, place, case, folder)


def check_match(found: Matches, place: int, case: dict[str, Any], folder: Folder) -> None:
    index = found.positive[place].nonzero()[:, 0]
    assert index.tolist() == case["pos_index"]
    assert found.labels[place, index].tolist() == case["pos_label"]
    for name, values in (("targets", case["pos_target"]), ("scores", case["pos_score"])):
        got = getattr(found, name)[place]
        limit = folder.tolerance[f"{name}_abs"]
        torch.testing.assert_close(got[index], torch.tensor(values), atol=limit, rtol=0)
        got[index] = 0
        assert not got.any()
    assert int(found.labels[place].count_nonzero()) == len(index)


@pytest.mark.parity
@of_kind("ssd")
def test_decoding_agrees_and_undoes_encoding(folder: Folder) -> None:
    arrays = folder.arrays("decode.npz")
    anchors = recorded_anchors(folder)[arrays["idx"]]
    found = decode(arrays["x"], anchors)
    torch.testing.assert_close(found, arrays["out"], atol=folder.tolerance["decode_abs"], rtol=1e-6)
    torch.testing.assert_close(encode(found, anchors), arrays["x"], atol=1e-4, rtol=1e-4)


class RecordedLoss:
    """Logits, offsets and objects of the recorded loss."""

    def __init__(self, folder: Folder) -> None:
        facts, arrays = folder.facts, folder.arrays("loss.npz")
        batch = facts["batch"]
        logits = arrays["cls_q"].float() / facts["cls_divisor"]
        logits[:, 0] += facts["cls_add_column0"]
        # (B A, n) to (B, A, n)
        self.logits = logits.view(batch, -1, facts["nb_classes"]).requires_grad_()
        self.offsets = (arrays["loc_q"].float() / facts["loc_divisor"]).view(batch, -1, 4).requires_grad_()
        objects = arrays["objs"]
        labels = (objects[..., 5] * (objects[..., 0] > 0)).long()
        self.matches = matched(folder, objects[..., 1:5], labels)
        self.negative_ratio = facts["negative_ratio"]

    def terms(self) -> tuple[Tensor, Tensor, Tensor]:
        return loss_terms(self.logits, self.offsets, self.matches, negative_ratio=self.negative_ratio)


def recorded_decay(folder: Folder) -> float:
    """The decay's loss of the recorded variables."""
    total = 0.0
    for variable in folder.facts["regularised_variables"]:
        assert decay_factor(variable["name"]) == variable["factor"]
        squares = float(np.prod(variable["shape"])) * variable["value"] ** 2
        total += decay_factor(variable["name"]) * squares / 2
    return total


@pytest.mark.parity
@of_kind("ssd")
def test_losses_agree_at_every_recorded_step(folder: Folder) -> None:
    facts, recorded = folder.facts, folder.json("loss.json")
    ce, loc, accuracy = (term.item() for term in RecordedLoss(folder).terms())
    decay = recorded_decay(folder)
    for row in recorded["rows"]:
        expected = dict(zip(recorded["columns"], row, strict=True))
        warm = warm_up(expected["step"], facts["nb_iters_cls_wmup"])
        found = {"ce": ce, "loc": loc, "l2": decay, "total": warm * ce + loc + facts["loss_w_dcy"] * decay}
        for name, value in found.items():
            assert value == pytest.approx(expected[name], abs=folder.tolerance["loss_abs"]), name
        assert accuracy == pytest.approx(expected["accuracy"], abs=folder.tolerance["accuracy_abs"])


@pytest.mark.parity
@of_kind("ssd")
def test_gradients_agree_and_all_other_rows_have_none(folder: Folder) -> None:
    facts, arrays, inputs = folder.facts, folder.arrays("loss.npz"), RecordedLoss(folder)
    ce, loc, _ = inputs.terms()
    (warm_up(facts["gradient_step"], facts["nb_iters_cls_wmup"]) * ce + loc).backward()
    for tensor, name in ((inputs.logits, "gcls"), (inputs.offsets, "gloc")):
        assert tensor.grad is not None
        got, index = tensor.grad.flatten(0, 1), arrays[f"{name}_idx"]  # (B, A, n) to (B A, n)
        limit = folder.tolerance["grad_abs"]
        torch.testing.assert_close(got[index], arrays[name], atol=limit, rtol=0)
        got[index] = 0
        assert not got.any()


@pytest.mark.parity
@of_kind("ssd")
def test_rows_of_the_post_processing_agree_zeros_included(folder: Folder) -> None:
    arrays = folder.arrays("nms.npz")
    names = ("select_threshold", "min_size", "keep_topk", "nms_topk", "nms_threshold")
    detect = DetectConfig(**{name: folder.facts[name] for name in names})
    scores, boxes = padded_detections(arrays["cls"], arrays["boxes"], detect)
    limit = folder.tolerance["nms_abs"]
    torch.testing.assert_close(scores, arrays["sel_scores"], atol=limit, rtol=0)
    torch.testing.assert_close(boxes, arrays["sel_boxes"], atol=limit, rtol=0)
