"""The whole choice on the recorded tiny networks: rows, kept channels, kernels, masks, fine-tuning."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from channel_prune.choosing.choose import Choice, choose
from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable
from channel_prune.choosing.rows import Rows, sampling_mode
from channel_prune.model.names import to_torch
from testing.parity import Folder, of_kind

from .recorded_net import RecordedDraws, RecordedNet, pictures, prune_config, recorded_net

TINY = of_kind("tiny_net", "tiny_dilated")


def chosen(folder: Folder) -> tuple[RecordedNet, Choice, RecordedDraws]:
    net, draws = recorded_net(folder, "w0"), RecordedDraws(folder)
    batches = pictures(folder, folder.facts["sampling_batches"])
    return net, choose(net, batches, prune_config(folder.facts), draws=draws), draws


@pytest.mark.parity
@TINY
def test_the_recorded_channels_are_kept_and_every_draw_is_used(folder: Folder) -> None:
    _, choice, draws = chosen(folder)
    tolerance, trace = folder.tolerance, folder.json("trace.json")
    assert draws.left == []
    assert len(choice.records) == len(trace) == len(folder.facts["layers"])
    for record, expected in zip(choice.records, trace, strict=True):
        assert (record.ratio, record.target) == (expected["ratio"], expected["target"])
        assert record.kept == expected["kept"]
        assert [list(one) for one in record.trace] == expected["trace"]
        assert record.gamma == expected["gamma"]
        assert record.norm == pytest.approx(expected["frob_norm"], rel=tolerance["frob_norm_rel"])
        for when in ("loss_before", "loss_after"):
            limits = {"rel": tolerance["loss_rel"], "abs": tolerance["loss_abs"]}
            assert getattr(record, when) == pytest.approx(expected[when], **limits)


@pytest.mark.parity
@TINY
def test_kernels_are_the_recorded_ones(folder: Folder) -> None:
    net, _, _ = chosen(folder)
    arrays, layers = folder.numpy("net.npz"), folder.numpy("layers.npz")
    state = net.state_dict()
    for i in range(len(folder.facts["layers"])):
        expected = to_torch(layers[f"k_after_{i}"])
        torch.testing.assert_close(
            state[f"convs.{i}.weight"], expected, rtol=0, atol=folder.tolerance["kernel_abs"]
        )
    for ours, theirs in net.original_names().items():
        expected = to_torch(arrays[f"w_pruned/{theirs}"])
        torch.testing.assert_close(state[ours], expected, rtol=0, atol=folder.tolerance["w_pruned_abs"])


@pytest.mark.parity
@TINY
def test_rows_are_the_recorded_ones_in_their_order(folder: Folder) -> None:
    facts, tolerance = folder.facts, folder.tolerance
    recorded, drawn = folder.arrays("layers.npz"), folder.arrays("draws.npz")
    net, full = recorded_net(folder, "w0"), recorded_net(folder, "w0")
    batches = pictures(folder, facts["sampling_batches"])
    layers = prunable(net, batches[0][:1])
    cfg = prune_config(facts)
    example, draws = batches[0][:1], RecordedDraws(folder)
    rows = Rows(net, full, batches, layers, cfg, draws, example, added={}, begin=0, changed=0)
    with sampling_mode(net, cfg.sample_mode):
        for i, layer in enumerate(layers):
            found = list(rows.collected(i))
            wanted = facts.get("batches_used_per_layer", [len(batches)] * len(layers))[i]
            assert len(found) == wanted
            if i in facts["layers_with_samples"]:
                x = torch.cat([rows.views[i].patches(one, places) for _, one, places, _ in found])
                y = torch.cat([targets for _, _, _, targets in found])
                first = drawn[f"idx1_{i}"].long()
                torch.testing.assert_close(x[first], recorded[f"x_{i}"], rtol=0, atol=tolerance["x_abs"])
                torch.testing.assert_close(y[first], recorded[f"y_{i}"], rtol=0, atol=tolerance["y_abs"])
            torch.testing.assert_close(
                layer.conv.weight.detach(), to_torch(recorded[f"k_before_{i}"].numpy())
            )
            layer.conv.weight.data.copy_(to_torch(recorded[f"k_after_{i}"].numpy()))


@pytest.mark.parity
@TINY
def test_fine_tuning_moves_kept_weights_as_recorded_and_leaves_pruned_ones_zero(folder: Folder) -> None:
    facts, arrays = folder.facts, folder.numpy("net.npz")
    net = recorded_net(folder, "w_pruned")
    layers = prunable(net, pictures(folder, [[0, 1]])[0])
    masks = Masks.from_zeros(layers, net)
    for i, mask in enumerate(masks.state.values()):
        assert torch.equal(mask, to_torch(arrays[f"mask/{i}"]))
    decayed = [p for name, p in net.named_parameters() if not name.startswith("norms")]
    others = [p for name, p in net.named_parameters() if name.startswith("norms")]
    groups = [{"params": decayed, "weight_decay": facts["loss_w_dcy"]}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=facts["lrn_rate"], momentum=facts["momentum"])
    labels = torch.from_numpy(arrays["Y"])
    net.train()
    for (first, last), images in zip(facts["ft_batches"], pictures(folder, facts["ft_batches"]), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels[first:last]).backward()
        masks.mask_gradients()
        optimizer.step()
    assert len(facts["ft_batches"]) == facts["nb_iters_ft"]
    state = net.state_dict()
    for ours, theirs in net.original_names().items():
        expected = to_torch(arrays[f"w_ft/{theirs}"])
        torch.testing.assert_close(state[ours], expected, rtol=0, atol=folder.tolerance["w_ft_abs"])
    assert Masks.from_zeros(layers, net).kept == masks.kept
    for name, kept in masks.kept.items():
        gone = [c for c in range(net.get_submodule(name).in_channels) if c not in kept]
        assert torch.count_nonzero(net.get_submodule(name).weight[:, gone]) == 0
