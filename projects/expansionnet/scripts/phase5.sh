#!/bin/sh
# ExpansionNet v2 (Hu et al., BigData 2023), COCO, Karpathy split.
# Phase 5 of 6: the body learns by reward (SCST) from features.
# Row: Single, without the last phase.
# Expected: about 139.5 CIDEr-D on validation and test split, beam 5.
# Hardware there: one GPU with 40 GB. Time: not stated, and not measured here.
# Command, from any folder; further arguments are passed on, and win over those below:
#   sh projects/expansionnet/scripts/phase5.sh --body_save_path ./github_ignore_material/saves/end_to_end_xe/last
# PROCESSES=4 shares the work between four GPUs of this machine. PYTHON sets the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

launch train --N_enc 3 --N_dec 3 \
    --model_dim 512 --optim_type radam --seed 775533 --sched_type custom_warmup_anneal \
    --warmup 1 --lr 1e-4 --anneal_coeff 0.8 --anneal_every_epoch 1 --enc_drop 0.1 \
    --dec_drop 0.1 --enc_input_drop 0.1 --dec_input_drop 0.1 --drop_other 0.1 \
    --batch_size 24 --num_accum 2 --num_gpus 1 --ddp_sync_port 11317 --eval_beam_sizes '[5]' \
    --save_path ./github_ignore_material/saves/ --save_every_minutes 60 --how_many_checkpoints 1 \
    --is_end_to_end False --partial_load True \
    --features_path ./github_ignore_material/raw_data/features.hdf5 \
    --body_save_path ./github_ignore_material/saves/phase3_checkpoint.pth \
    --print_every_iter 4000 --eval_every_iter 99999 \
    --reinforce True --num_epochs 9 \
    "$@"
