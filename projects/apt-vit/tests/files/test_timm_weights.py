"""Networks of timm, as ours: the same answers, and others are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmTransformer

from apt_vit.classifier import Classifier
from apt_vit.config import ModelConfig
from apt_vit.files.timm_weights import preprocess_of_timm, sizes_of, timm_name, to_timm, translate
from prunelab.errors import UserError

from ..small import pictures, small_model

SIZES: dict[str, Any] = {
    "img_size": (16, 24),
    "patch_size": 8,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "mlp_ratio": 2.0,
}


def timm_network(**changes: Any) -> TimmTransformer:
    torch.manual_seed(0)
    model = TimmTransformer(**(SIZES | changes))
    with torch.no_grad():
        for values in model.parameters():
            values.add_(0.2 * torch.randn_like(values))
    return model.eval()


def test_a_network_of_timm_answers_the_same_with_fresh_agents() -> None:
    theirs = timm_network()
    ours = Classifier.from_timm(theirs)

    x = pictures(3, ours.config)
    with torch.no_grad():
        torch.testing.assert_close(ours.model(x), theirs(x), atol=1e-5, rtol=1e-5)
        assert ours.dropper(x).counts.tolist() == [[7, 7, 7]] * 3
    assert ours.config.num_heads == 3
    assert ours.config.img_size == (16, 24)
    assert ours.config.clip_layers == (0, 1, 2)
    assert ours.class_names[4] == "class 4"
    assert ours.preprocess.mean == (0.5, 0.5, 0.5)


def test_a_network_of_timm_drops_by_attention_at_a_keep_rate() -> None:
    ours = Classifier.from_timm(timm_network(), clip_layers=(1, 2), keep_rate=0.7)
    assert ours.config.clip_layers == (1, 2)
    assert ours.dropper(pictures(2, ours.config)).counts.tolist() == [[5, 4]] * 2


def test_a_network_is_made_by_name_and_its_pictures_are_normalised_as_timm_says() -> None:
    ours = Classifier.from_timm("vit_tiny_patch16_224", pretrained=False, seed=1)
    assert ours.config.model_type == "ViT-12x192_16"
    assert ours.config.num_heads == 3
    assert len(ours.class_names) == 1000
    assert ours.class_names[0] == "tench"
    with pytest.raises(UserError, match="timm:vit_nothing: not to be had from timm"):
        Classifier.from_timm("vit_nothing", pretrained=False)


@pytest.mark.parametrize("changes", [{"global_pool": "avg", "fc_norm": False}, {"act_layer": torch.nn.ReLU}])
def test_networks_that_compute_something_else_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="VisionTransformer: computes something else than this network"):
        Classifier.from_timm(timm_network(**changes))


def test_networks_with_other_parts_are_refused() -> None:
    with pytest.raises(UserError, match=r"blocks.0.ls1.gamma, ... has no place here"):
        Classifier.from_timm(timm_network(init_values=0.1))
    with pytest.raises(UserError, match="Linear: not a plain vision transformer of timm"):
        Classifier.from_timm(torch.nn.Linear(2, 2))


def test_names_go_there_and_back() -> None:
    model = small_model()
    state = model.state_dict()

    there = to_timm(state)

    assert there["blocks.2.attn.qkv.weight"].shape == (72, 24)
    back, unused = translate({**there, "fc_norm.weight": torch.ones(1)}, state, where="file")
    assert unused == ("fc_norm.weight",)
    assert all(torch.equal(back[name], state[name]) for name in back)
    assert set(state) - set(back) == {name for name in state if "clip_layer" in name}
    sizes = sizes_of(there, where="file")
    cfg = model.cfg
    assert sizes == {
        "patch_size": cfg.patch_size,
        "hidden_size": cfg.hidden_size,
        "mlp_dim": cfg.mlp_dim,
        "num_layers": cfg.num_layers,
        "num_classes": cfg.num_classes,
    }
    del there["cls_token"]
    with pytest.raises(UserError, match="file: cls_token is missing"):
        sizes_of(there, where="file")
    with pytest.raises(KeyError):
        timm_name("nothing")


def test_pictures_are_normalised_as_the_file_says() -> None:
    cfg = ModelConfig()
    found = preprocess_of_timm(cfg, {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.std == (0.229, 0.224, 0.225)
    assert preprocess_of_timm(cfg, {}).std == (0.5, 0.5, 0.5)
