#!/bin/sh
# ExpansionNet v2 (Hu et al., BigData 2023), COCO, Karpathy split.
# Phase 4 of 6: features of all pictures from the backbone of phase 3.
# Row: Single; what phase 5 reads, without a score of its own.
# Expected: features of 123,287 pictures, in place of those of phase 1.
# Hardware there: one GPU with 40 GB. Time: not stated, and not measured here.
# Command, from any folder; further arguments are passed on, and win over those below:
#   sh projects/expansionnet/scripts/phase4.sh --save_model_path ./github_ignore_material/saves/end_to_end_xe/last
# PROCESSES=4 shares the work between four GPUs of this machine. PYTHON sets the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

launch data_generator \
    --save_model_path ./github_ignore_material/saves/phase3_checkpoint \
    --output_path ./github_ignore_material/raw_data/features.hdf5 \
    --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ \
    --captions_path ./github_ignore_material/raw_data/ \
    "$@"
