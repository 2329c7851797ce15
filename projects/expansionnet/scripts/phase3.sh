#!/bin/sh
# ExpansionNet v2 (Hu et al., BigData 2023), COCO, Karpathy split.
# Phase 3 of 6: body and backbone learn end to end by cross entropy.
# Row: Single; no published score of this phase.
# Expected: better than phase 2.
# Hardware there: one GPU with 40 GB. Time: not stated, and not measured here.
# Command, from any folder; further arguments are passed on, and win over those below:
#   sh projects/expansionnet/scripts/phase3.sh --body_save_path ./github_ignore_material/saves/xe/last
# PROCESSES=4 shares the work between four GPUs of this machine. PYTHON sets the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

launch train --N_enc 3 --N_dec 3 \
    --model_dim 512 --optim_type radam --seed 775533 --sched_type custom_warmup_anneal \
    --warmup 1 --lr 3e-5 --anneal_coeff 0.55 --anneal_every_epoch 1 --enc_drop 0.3 \
    --dec_drop 0.3 --enc_input_drop 0.3 --dec_input_drop 0.3 --drop_other 0.3 \
    --batch_size 16 --num_accum 3 --num_gpus 1 --ddp_sync_port 11317 --eval_beam_sizes '[3]' \
    --save_path ./github_ignore_material/saves/ --save_every_minutes 60 --how_many_checkpoints 1 \
    --is_end_to_end True --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ --partial_load True \
    --backbone_save_path ./github_ignore_material/raw_data/swin_large_patch4_window12_384_22k.pth \
    --body_save_path ./github_ignore_material/saves/phase2_checkpoint \
    --print_every_iter 15000 --eval_every_iter 999999 \
    --reinforce False --num_epochs 2 \
    "$@"
