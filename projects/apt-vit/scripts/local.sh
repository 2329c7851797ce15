#!/bin/sh
# Start any command of the project on this machine, from any folder, one process for each GPU:
#   sh projects/apt-vit/scripts/local.sh train --name cifar100 --dataset cifar100
#   PROCESSES=2 sh projects/apt-vit/scripts/local.sh test --model output/cifar100
# Commands: train, test, infer. Relative paths start in the project's folder. PROCESSES is the number of processes
# (default: all GPUs, else 1), PYTHON the interpreter. Batch sizes are those of one process.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

case ${1:-} in
train | test | infer) ;;
*)
    echo "error: ${1:-nothing} is no command to start here, expected train, test or infer" >&2
    exit 2
    ;;
esac
if [ -z "${PROCESSES:-}" ]; then
    PROCESSES=$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')
fi
launch "$@"
