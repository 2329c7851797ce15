#!/bin/sh
# ExpansionNet v2 (Hu et al., BigData 2023), COCO, Karpathy split.
# Phase 1 of 6: features of all pictures from the published Swin-L.
# Row: Single; what phase 2 reads, without a score of its own.
# Expected: features of 123,287 pictures in 109 GB; with --dtype fp16 in half of it.
# Hardware there: one GPU with 40 GB. Time: not stated, and not measured here.
# Command, from any folder; further arguments are passed on, and win over those below:
#   sh projects/expansionnet/scripts/phase1.sh --dtype fp16
# PROCESSES=4 shares the work between four GPUs of this machine. PYTHON sets the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

launch data_generator \
    --save_model_path ./github_ignore_material/raw_data/swin_large_patch4_window12_384_22k.pth \
    --output_path ./github_ignore_material/raw_data/features.hdf5 \
    --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ \
    --captions_path ./github_ignore_material/raw_data/ \
    "$@"
