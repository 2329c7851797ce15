#!/bin/sh
# APT on CIFAR, both rows of the published table; 100 or 10 says which of them. From any folder:
#   sh projects/apt-vit/scripts/train_cifar.sh 100
# Expected: CIFAR-100: 92.6 % pruned, 93.03 % unpruned; CIFAR-10: 98.93 % and 98.92 %, each the best of about 100
# evaluations on the test pictures. No tolerance was published, nor more than one seed.
# Weights: checkpoint/ViT-B_16.npz (README, "Reproduce the paper"). Data: fetched, where they are not there.
# Hardware and time there: not stated; here: not measured, for lack of the weights.
# Further arguments are passed on, and win over those below: --preset fixed, say. PROCESSES=4 uses four GPUs, with
# 72 pictures of an update in each. PYTHON sets the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

case ${1:-} in
10 | 100) classes=$1 ;;
*)
    echo "error: ${1:-nothing} is no number of classes here, expected 10 or 100" >&2
    exit 2
    ;;
esac
shift
launch train --name "cifar$classes" --dataset "cifar$classes" --model_type ViT-B_16 \
    --pretrained_dir checkpoint/ViT-B_16.npz --output_dir output --img_size 224 \
    --train_batch_size 72 --gradient_accumulation_steps 3 --eval_batch_size 32 --eval_every 500 \
    --learning_rate 3e-2 --weight_decay 0 --num_steps 50000 --decay_type cosine --warmup_steps 500 \
    --max_grad_norm 1.0 --seed 42 "$@"
