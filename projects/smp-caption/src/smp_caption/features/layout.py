"""Where the files of a data set lie, and which of them a model reads."""

from __future__ import annotations

from smp_caption.config import Config

JSON_NAMES = {
    "mscoco": "dataset_coco.json",
    "mscoco_testing": "dataset_coco_testing.json",
    "flickr1k": "dataset_flickr1k.json",
    "tiny": "dataset_coco.json",
}
"""Caption file of a data set; own pictures (``captions``) may use any layout that core reads."""
TINY = (960, 60, 120)
"""Pictures of the embedded data set: train, val, test."""
FOLDERS = {"mscoco_testing": "mscoco"}
"""Folder under PRUNELAB_DATA where it is not called like the data set."""
ATT_DIR, FC_DIR, BOX_DIR = "bu/cocobu_att", "bu/cocobu_fc", "bu/cocobu_box_relative"
"""Folders of features in a data set, unless the configuration names others."""
FEATURE_DIRS = {"input_att_dir": ATT_DIR, "input_fc_dir": FC_DIR, "input_rel_box_dir": BOX_DIR}
"""The same by the name of the flag."""
OWN_BOXES = "box_relative"
"""Folder of boxes beside the features that `extract` wrote."""
OWN_DIRS = {"input_fc_dir": "fc", "input_rel_box_dir": OWN_BOXES}
"""Folders beside features that `extract` wrote, by the name of the flag."""


def reads_fc(cfg: Config) -> bool:
    """Whether the model reads the picture's mean feature."""
    return cfg.model.caption_model.startswith("up_down")


def reads_boxes(cfg: Config) -> bool:
    """Whether the model reads boxes."""
    return cfg.model.caption_model.startswith("relation")
