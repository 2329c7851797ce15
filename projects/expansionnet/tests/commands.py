"""The command lines of the original's documents, and commands of ours tried without running them."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expansionnet import cli
from expansionnet.config import Config
from expansionnet.lowering import FIELDS, lower, lower_test, lower_values
from expansionnet.model import build

PROJECT = Path(__file__).resolve().parents[1]
UV = ["uv", "run", "--package", "expansionnet"]
WORDS, POSITIONS = 10_000, 74
"""Vocabulary and positions that COCO gives."""

README_COMMANDS = {
    "demo": r"""python demo.py \
     --load_path your_download_folder/rf_model.pth \
     --image_paths your_image_path/image_1 your_image_path/image_2""",
    "convert2onnx": "python onnx4tensorrt/convert2onnx.py --onnx_simplify true --load_model_path my.pth",
    "onnx2tensorrt": "python onnx4tensorrt/onnx2tensorrt.py",
    "phase1": r"""python data_generator.py \
    --save_model_path ./github_ignore_material/raw_data/swin_large_patch4_window12_384_22k.pth \
    --output_path ./github_ignore_material/raw_data/features.hdf5 \
    --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ \
    --captions_path ./github_ignore_material/raw_data/""",
    "phase2": r"""python train.py --N_enc 3 --N_dec 3  \
    --model_dim 512 --seed 775533 --optim_type radam --sched_type custom_warmup_anneal \
    --warmup 10000 --lr 2e-4 --anneal_coeff 0.8 --anneal_every_epoch 2 --enc_drop 0.3 \
    --dec_drop 0.3 --enc_input_drop 0.3 --dec_input_drop 0.3 --drop_other 0.3  \
    --batch_size 48 --num_accum 1 --num_gpus 1 --ddp_sync_port 11317 --eval_beam_sizes [3]  \
    --save_path ./github_ignore_material/saves/ --save_every_minutes 60 --how_many_checkpoints 1  \
    --is_end_to_end False --features_path ./github_ignore_material/raw_data/features.hdf5 \
    --partial_load False \
    --print_every_iter 11807 --eval_every_iter 999999 \
    --reinforce False --num_epochs 8""",
    "phase3": r"""python train.py --N_enc 3 --N_dec 3  \
    --model_dim 512 --optim_type radam --seed 775533   --sched_type custom_warmup_anneal \
    --warmup 1 --lr 3e-5 --anneal_coeff 0.55 --anneal_every_epoch 1 --enc_drop 0.3 \
    --dec_drop 0.3 --enc_input_drop 0.3 --dec_input_drop 0.3 --drop_other 0.3  \
    --batch_size 16 --num_accum 3 --num_gpus 1 --ddp_sync_port 11317 --eval_beam_sizes [3]  \
    --save_path ./github_ignore_material/saves/ --save_every_minutes 60 --how_many_checkpoints 1  \
    --is_end_to_end True --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ --partial_load True \
    --backbone_save_path ./github_ignore_material/raw_data/swin_large_patch4_window12_384_22k.pth \
    --body_save_path ./github_ignore_material/saves/phase2_checkpoint \
    --print_every_iter 15000 --eval_every_iter 999999 \
    --reinforce False --num_epochs 2""",
    "phase4": r"""python data_generator.py \
    --save_model_path ./github_ignore_material/saves/phase3_checkpoint \
    --output_path ./github_ignore_material/raw_data/features.hdf5 \
    --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ \
    --captions_path ./github_ignore_material/raw_data/""",
    "phase5": r"""python train.py --N_enc 3 --N_dec 3  \
    --model_dim 512 --optim_type radam --seed 775533  --sched_type custom_warmup_anneal \
    --warmup 1 --lr 1e-4 --anneal_coeff 0.8 --anneal_every_epoch 1 --enc_drop 0.1 \
    --dec_drop 0.1 --enc_input_drop 0.1 --dec_input_drop 0.1 --drop_other 0.1  \
    --batch_size 24 --num_accum 2 --num_gpus 1 --ddp_sync_port 11317 --eval_beam_sizes [5]  \
    --save_path ./github_ignore_material/saves/ --save_every_minutes 60 --how_many_checkpoints 1  \
    --is_end_to_end False --partial_load True \
    --features_path ./github_ignore_material/raw_data/features.hdf5 \
    --body_save_path ./github_ignore_material/saves/phase3_checkpoint.pth \
    --print_every_iter 4000 --eval_every_iter 99999 \
    --reinforce True --num_epochs 9""",
    "phase6": r"""python train.py --N_enc 3 --N_dec 3  \
    --model_dim 512 --optim_type radam --seed 775533  --sched_type custom_warmup_anneal \
    --warmup 1 --anneal_coeff 1.0 --lr 2e-6 --enc_drop 0.1 \
    --dec_drop 0.1 --enc_input_drop 0.1 --dec_input_drop 0.1 --drop_other 0.1  \
    --batch_size 24 --num_accum 2 --num_gpus 1 --ddp_sync_port 11317 --eval_beam_sizes [5]  \
    --save_path ./github_ignore_material/saves/ --save_every_minutes 60 --how_many_checkpoints 1  \
    --is_end_to_end True --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ --partial_load True \
    --backbone_save_path ./github_ignore_material/raw_data/phase3_checkpoint \
    --body_save_path ./github_ignore_material/saves/phase5_checkpoint \
    --print_every_iter 15000 --eval_every_iter 999999 \
    --reinforce True --num_epochs 1""",
    "test": r"""python test.py --N_enc 3 --N_dec 3 --model_dim 512 \
    --num_gpus 1 --eval_beam_sizes [5] --is_end_to_end True \
    --eval_parallel_batch_size 4 \
    --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ \
    --save_model_path ./github_ignore_material/saves/phase6_checkpoint""",
}
"""Every command of the original's README, as typed."""


def words_of(command: str) -> list[str]:
    """The words of a command."""
    return shlex.split(command.replace("\\\n", " "))


def launch_words(script: Path) -> list[str]:
    """The words that a launch file of a phase hands to its command, the command first."""
    text = re.sub(r"^\s*#.*$", "", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    line = text.partition("\nlaunch ")[2].replace("\\\n", " ").strip()
    words = shlex.split(line)
    assert words[-1] == "$@"
    return words[:-1]


def changed(cfg: Config, **values: Any) -> Config:
    """A configuration with some fields set, by their names alone."""
    for name, value in values.items():
        group = FIELDS.group_of[name]
        cfg = replace(cfg, **{group: replace(getattr(cfg, group), **{name: value})})
    return cfg


def typed(words: str) -> Config:
    """What a command line of ``train`` means."""
    return lower(cli.parse_train(words.split()))


def faithful(**values: Any) -> Config:
    """What the original's programs mean without flags, with some fields set."""
    return changed(lower_values({}, preset="faithful"), **values)


def parameters(cfg: Config, *, words: int = WORDS, positions: int = POSITIONS) -> dict[str, int]:
    """Numbers of parameters of a configuration's model: ``body`` and, where it has one, ``backbone``."""
    model = replace(
        cfg.model, vocab_size=cfg.model.vocab_size or words, max_seq_len=cfg.model.max_seq_len or positions
    )
    with torch.device("meta"):
        network = build(model, fresh=False)
    counts = {"body": 0, "backbone": 0}
    for name, parameter in network.named_parameters():
        counts["backbone" if name.startswith("swin_transf.") else "body"] += parameter.numel()
    return counts


class Documented:
    """Tries commands without data and without models."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.built: set[str] = set()

    def understood(self, words: list[str]) -> bool:
        """Whether a command does what it says, as far as that can be told without data and models."""
        words = words[len(UV) :] if words[: len(UV)] == UV else words
        match words:
            case ["sh", script, *rest]:
                return self.launched(PROJECT / "scripts" / Path(script).name, rest)
            case ["python", "-m", module, *rest] if module.startswith("expansionnet."):
                return self.parsed(module.removeprefix("expansionnet."), rest)
            case ["python", script, *rest]:
                return self.shim(PROJECT / script, rest)
            case [program, *rest]:
                return self.parsed(program, rest)
        return False

    def launched(self, script: Path, rest: list[str]) -> bool:
        """A launch file is there, and its program takes the arguments."""
        assert script.is_file()
        if script.name == "local.sh":
            return self.parsed(rest[0], rest[1:])
        if script.name == "all_phases.sh":
            return bool(cli.parse_train(rest))
        command, *own = launch_words(script)
        return self.parsed(command, [*own, *rest])

    def parsed(self, program: str, rest: list[str]) -> bool:
        """A program takes the arguments, and the model of a training can be built."""
        match program:
            case "train":
                return self.builds(lower(cli.parse_train(rest)))
            case "test":
                return self.builds(lower_test(cli.parse_test(rest)))
            case "bench":
                from expansionnet.bench import ROWS

                return {word for word in rest if not word.startswith("-")} <= ROWS.keys()
        parsers = {
            "demo": cli.parse_demo,
            "data-generator": cli.parse_data_generator,
            "data_generator": cli.parse_data_generator,
            "convert": cli.parse_convert,
            "export": cli.parse_export,
        }
        return bool(parsers[program](rest))

    def builds(self, cfg: Config) -> bool:
        """The model of a configuration can be built; each once."""
        key = str(cfg.model)
        if key not in self.built:
            self.built.add(key)
            return parameters(cfg)["body"] > 0
        return True

    def shim(self, script: Path, rest: list[str]) -> bool:
        """A file under the original's name runs dry."""
        self.monkeypatch.setattr(sys, "argv", [script.name, *rest, "--dry-run"])
        runpy.run_path(str(script), run_name="__main__")
        return True
