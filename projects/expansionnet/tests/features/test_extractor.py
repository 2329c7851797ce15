"""The backbone by itself: from any weights, into a folder and back, and beside the features it computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from expansionnet.config import SwinConfig
from expansionnet.features.extractor import FeatureExtractor, Origin
from expansionnet.files.backbone import CONFIG_FILE, WEIGHTS_FILE, has_backbone
from expansionnet.model.swin import build_swin
from prunelab.errors import UserError

SWIN = SwinConfig(img_size=32, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4)
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    torch.manual_seed(0)
    return FeatureExtractor(build_swin(SWIN), SWIN)


def test_pictures_become_tokens(extractor: FeatureExtractor) -> None:
    assert not extractor.backbone.training
    tokens = extractor([PICTURE, PICTURE.transpose(1, 0, 2)])
    assert (tokens.shape, tokens.dtype) == ((2, SWIN.tokens, SWIN.width), torch.float32)
    assert torch.allclose(tokens[:1], extractor([PICTURE]), atol=1e-5)
    assert not tokens.requires_grad


def test_mixed_precision_is_near(extractor: FeatureExtractor) -> None:
    half = FeatureExtractor(extractor.backbone, SWIN, amp="bf16")
    exact, near = extractor([PICTURE]), half([PICTURE])
    assert near.dtype == torch.float32
    assert 0 < (exact - near).abs().max() < 0.2


def test_it_comes_back_from_a_folder(extractor: FeatureExtractor, tmp_path: Path) -> None:
    black = FeatureExtractor(extractor.backbone, SWIN, black=True)
    assert not has_backbone(tmp_path)
    black.save(tmp_path)
    assert has_backbone(tmp_path)
    for found in (FeatureExtractor.load(tmp_path), FeatureExtractor.open(tmp_path, black=True)):
        assert found.config == SWIN
        assert found.preprocess.black
        assert found.digest() == extractor.digest()
        assert torch.equal(found([PICTURE]), extractor([PICTURE]))
    (tmp_path / WEIGHTS_FILE).write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"backbone\.safetensors: missing, damaged or cut off"):
        FeatureExtractor.load(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"backbone\.json: not a backbone"):
        FeatureExtractor.load(tmp_path)


def test_it_is_found_beside_features_as_long_as_its_weights_are_the_same(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    features = tmp_path / "f.hdf5"
    assert FeatureExtractor.beside(features) is None
    extractor.save(tmp_path / "backbone")
    origin = Origin(
        swin=SWIN, sha256=extractor.digest(), weights=str(tmp_path / "backbone"), dtype="fp32", amp="off"
    )
    origin.save(features)
    assert Origin.beside(features) == origin
    found = FeatureExtractor.beside(features)
    assert found is not None
    assert torch.equal(found([PICTURE]), extractor([PICTURE]))
    other = FeatureExtractor(build_swin(SWIN), SWIN)
    assert other.digest() != extractor.digest()
    other.save(tmp_path / "backbone")
    assert FeatureExtractor.beside(features) is None
    extractor.save(tmp_path / "f.hdf5.backbone")  # features that were moved together with their weights
    assert FeatureExtractor.beside(features) is not None
    for folder in ("backbone", "f.hdf5.backbone"):
        (tmp_path / folder / WEIGHTS_FILE).unlink()
    assert FeatureExtractor.beside(features) is None
    Origin.place(features).write_text("[]")
    with pytest.raises(UserError, match=r"f\.hdf5\.json: expected the format"):
        Origin.beside(features)
