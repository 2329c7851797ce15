#!/bin/sh
# ExpansionNet v2 (Hu et al., BigData 2023), COCO, Karpathy split.
# Phase 6 of 6: body and backbone learn end to end by reward; optional.
# Row: Single, Karpathy test: B@1 82.8, B@4 41.5, METEOR 30.3, ROUGE-L 60.5, CIDEr-D 140.4, SPICE 24.5.
# Expected: 140.4 CIDEr-D on the test split, beam 5; several such models with other seeds are the row Ensemble, 143.7.
# Hardware there: one GPU with 40 GB. Time: not stated, and not measured here.
# Command, from any folder; further arguments are passed on, and win over those below:
#   sh projects/expansionnet/scripts/phase6.sh \
#       --backbone_save_path ./github_ignore_material/saves/end_to_end_xe/last \
#       --body_save_path ./github_ignore_material/saves/rf/last
# PROCESSES=4 shares the work between four GPUs of this machine. PYTHON sets the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

launch train --N_enc 3 --N_dec 3 \
    --model_dim 512 --optim_type radam --seed 775533 --sched_type custom_warmup_anneal \
    --warmup 1 --anneal_coeff 1.0 --lr 2e-6 --enc_drop 0.1 \
    --dec_drop 0.1 --enc_input_drop 0.1 --dec_input_drop 0.1 --drop_other 0.1 \
    --batch_size 24 --num_accum 2 --num_gpus 1 --ddp_sync_port 11317 --eval_beam_sizes '[5]' \
    --save_path ./github_ignore_material/saves/ --save_every_minutes 60 --how_many_checkpoints 1 \
    --is_end_to_end True --images_path ./github_ignore_material/raw_data/MS_COCO_2014/ --partial_load True \
    --backbone_save_path ./github_ignore_material/raw_data/phase3_checkpoint \
    --body_save_path ./github_ignore_material/saves/phase5_checkpoint \
    --print_every_iter 15000 --eval_every_iter 999999 \
    --reinforce True --num_epochs 1 \
    "$@"
