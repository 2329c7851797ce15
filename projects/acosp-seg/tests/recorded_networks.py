"""What the recorded numbers of PSPNet and of SegNet check alike: outputs, and training with masks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acosp import SoftTopKPruner, apply_structure, structure
from acosp.inject import masked_convs, soft_to_hard_k
from acosp.soft_topk import SoftTopK
from acosp_seg.config import ModelConfig
from acosp_seg.model import Network, build
from testing.parity import Folder

from .filling import check, fill


def config_of(folder: Folder, **changes: Any) -> ModelConfig:
    """The network that a folder's settings describe."""
    facts = {"layers": 50, "dropout": 0.0, "zoom_factor": 8} | folder.facts | changes
    return ModelConfig(**{key: facts[key] for key in ("arch", "layers", "classes", "dropout", "zoom_factor")})


def hardened(model: Network) -> Network:
    """The network of a soft-masked one on the meta device with hard masks instead."""
    layers = structure(model)["layers"]
    hard = {name: {"kind": "hard", "channels": layers[name]["channels"]} for name in layers}
    with torch.device("meta"):
        model = build(model.cfg, criterion_ignore=model.criterion.ignore_index)
        apply_structure(model, {"layers": hard, "frozen": []})
    return model


def network(folder: Folder, phase: str = "dense", **changes: Any) -> Network:
    """A network that is filled by the rule; ``phase`` is dense, soft or hard."""
    facts = folder.facts
    ignore = facts.get("ignore_label", 255)
    with torch.device("meta"):
        model = build(config_of(folder, **changes), criterion_ignore=ignore)
        if phase != "dense":
            pruner = SoftTopKPruner(
                facts["sparsity"],
                facts.get("ending_epoch", 1),
                starting_epoch=facts.get("starting_epoch", 0),
                min_remaining_elements=facts["min_remaining_elements"],
            )
            pruner.configure_model(model)
    if phase == "hard":
        model = hardened(model)
    model.to_empty(device="cpu")
    fill(
        model,
        prefix=folder.facts.get("fill_prefix", ""),
        hard=phase == "hard",
        sparsity=facts["sparsity"],
        min_remaining=facts["min_remaining_elements"],
    )
    return model


@lru_cache(maxsize=1)
def dense_network(folder: Folder) -> Network:
    """The dense network in eval mode, shared by the tests that leave it as it is."""
    return network(folder).eval()


def inputs(folder: Folder) -> tuple[Tensor, Tensor]:
    """Pictures and labels."""
    data = folder.arrays("data.npz")
    return data["x"], data["y"].long()


def stored(folder: Folder, name: str, output: Tensor) -> Tensor:
    """The part of an output that was stored."""
    facts = folder.facts
    key = "zoom_stored_stride" if "_zoom" in name else "stored_stride"
    stride = 1 if name in facts["stored_full"] else facts[key]
    return output[..., ::stride, ::stride]


def assert_output(folder: Folder, name: str, output: Tensor, *, rtol: float, atol_of_max: float) -> None:
    """Compare an output with its stored part, and all of it with its recorded sums."""
    expected = folder.json("expected.json")[name]
    assert list(output.shape) == expected["shape"]
    largest = float(output.abs().max())
    array = folder.arrays("data.npz")[name]
    ours = stored(folder, name, output).to(array.dtype)
    torch.testing.assert_close(
        ours, array, rtol=rtol, atol=atol_of_max * largest, msg=lambda m: f"{name}: {m}"
    )
    assert_sums(name, check(output), expected["check"], tolerance=max(rtol, atol_of_max), largest=largest)


def assert_sums(
    name: str, ours: list[float], recorded: list[float], *, tolerance: float, largest: float
) -> None:
    """Compare [sum, abs sum, first, last]: sums relative to the abs sum, values to the largest value."""
    total, absolute, first, last = recorded
    assert abs(ours[0] - total) <= tolerance * absolute, f"{name}: sum {ours[0]}, recorded {total}"
    assert abs(ours[1] - absolute) <= tolerance * absolute, f"{name}: abs sum {ours[1]}, recorded {absolute}"
    assert abs(ours[2] - first) <= 2 * tolerance * largest, f"{name}: first {ours[2]}, recorded {first}"
    assert abs(ours[3] - last) <= 2 * tolerance * largest, f"{name}: last {ours[3]}, recorded {last}"


def assert_eval(folder: Folder, name: str, model: Network) -> None:
    """Compare the output in eval mode, in single precision."""
    with torch.no_grad():
        output = model.eval()(inputs(folder)[0])
    bound = folder.tolerance
    assert_output(folder, name, output, rtol=bound["eval_rtol"], atol_of_max=bound["eval_atol_of_max"])


def assert_abs_sums(
    what: str, ours: dict[str, Tensor], recorded: dict[str, list[float]], *, rtol: float, skip: float = 0.0
) -> None:
    """Compare the sums of absolute values of every recorded entry."""
    wrong = {
        name: (check(ours[name])[1], entry[1])
        for name, entry in recorded.items()
        if entry[1] >= skip and abs(check(ours[name])[1] - entry[1]) > rtol * entry[1]
    }
    assert recorded, f"{what}: nothing recorded"
    assert not wrong, f"{what}: {len(wrong)} of {len(recorded)} differ: {dict(list(wrong.items())[:3])}"


def _optimizer(folder: Folder, model: Network) -> torch.optim.SGD:
    facts = folder.facts
    assert [name for names in model.groups() for name in names] == facts["groups"]
    groups = []
    for name in facts["groups"]:
        factor = facts["head_lr_factor"] if name in facts["head_groups"] else 1
        groups.append(
            {"params": list(model.get_submodule(name).parameters()), "lr": facts["base_lr"] * factor}
        )
    return torch.optim.SGD(
        groups, lr=facts["base_lr"], momentum=facts["momentum"], weight_decay=facts["weight_decay"]
    )


def assert_training(folder: Folder, phase: str, model: Network) -> None:
    """Train as recorded, in double precision: losses, gradients, predictions, weights and output agree."""
    expected, data, facts = folder.json("expected.json"), folder.arrays("data.npz"), folder.facts
    bound = folder.tolerance
    rtol, skip = bound["train_rtol"], bound["skip_abs_sum_below"]
    dtype = getattr(torch, facts["train_dtype"])
    model.to(dtype).train()
    optimizer = _optimizer(folder, model)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    assert sizes == expected[f"{phase}_train_group_sizes"]
    x, y = inputs(folder)
    x = x.to(dtype)
    losses = []
    for step in range(facts[f"{phase}_train_steps"]):
        prediction, main, aux = model.losses(x, y)
        losses.append([main.item(), aux.item()])
        optimizer.zero_grad()
        (main + facts["aux_weight"] * aux).backward()
        if step == 0:
            np.testing.assert_array_equal(prediction.numpy(), data[f"{phase}_train_pred0"].long().numpy())
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            recorded = expected[f"{phase}_train_grad_check"]
            assert_abs_sums("gradients", gradients, recorded, rtol=rtol, skip=skip)
        optimizer.step()
    np.testing.assert_allclose(losses, expected[f"{phase}_train_losses"], rtol=rtol)
    weights = model.state_dict()
    assert_abs_sums("weights", weights, expected[f"{phase}_train_param_check_end"], rtol=rtol, skip=skip)
    with torch.no_grad():
        output = model.eval()(x)
    assert_output(folder, f"{phase}_train_eval_end", output, rtol=rtol, atol_of_max=rtol)


def assert_hard(folder: Folder) -> None:
    """A network with hard masks: what it keeps, its output, its training."""
    model = network(folder, "hard")
    recorded = folder.json("expected.json")["hard_mask_first"]
    kept = {f"{name}.1.mask": module.mask.nonzero().flatten() for name, module in masked_convs(model)}
    assert kept.keys() == recorded.keys()
    assert {name: kept[name][: len(recorded[name])].tolist() for name in recorded} == recorded
    assert_eval(folder, "hard_eval", model)
    assert_training(folder, "hard", model)


def assert_soft(folder: Folder) -> None:
    """A network with soft masks: its output before training, its training, and after masks became hard."""
    model, expected = network(folder, "soft"), folder.json("expected.json")
    temperature = folder.facts["soft_temperature"]
    for module in model.modules():
        if isinstance(module, SoftTopK):
            module.current_temperature = temperature
    assert_eval(folder, "soft_fresh_eval", model)
    assert_training(folder, "soft", model)
    rtol = folder.tolerance["train_rtol"]
    recorded = expected["soft_end_k"]
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SoftTopK)}
    assert {name: layer.k for name, layer in layers.items()} == {name: k for name, (k, _) in recorded.items()}
    sums = [float(layers[name].mask.sum()) for name in recorded]
    np.testing.assert_allclose(sums, [total for _, total in recorded.values()], rtol=rtol)
    soft_to_hard_k(model, stored_mask=True)
    ones = expected["converted_mask_ones"]
    masks = {name: value for name, value in model.state_dict().items() if name.endswith(".mask")}
    assert {name: masks[name].nonzero().flatten()[: len(ones[name])].tolist() for name in ones} == ones
    with torch.no_grad():
        output = model.eval()(inputs(folder)[0].to(next(model.parameters()).dtype))
    assert_output(folder, "converted_eval", output, rtol=rtol, atol_of_max=rtol)


def features(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """Outputs of submodules in one forward pass."""
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: found.__setitem__(name, output)
        )
        for name in names
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found
