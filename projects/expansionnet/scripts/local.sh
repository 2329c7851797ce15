#!/bin/sh
# Start any command of the project on this machine, from any folder, one process for each GPU:
#   sh projects/expansionnet/scripts/local.sh train --is_end_to_end False --features_path features.hdf5
#   PROCESSES=2 sh projects/expansionnet/scripts/local.sh test --model runs/mine/best
# Commands: train, test, data_generator. Relative paths start in the project's folder. PROCESSES is the number of
# processes (default: all GPUs, else 1), PYTHON the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
. scripts/common.sh

case ${1:-} in
train | test | data_generator) ;;
*)
    echo "error: ${1:-nothing} is no command to start here, expected train, test or data_generator" >&2
    exit 2
    ;;
esac
if [ -z "${PROCESSES:-}" ]; then
    PROCESSES=$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')
fi
launch "$@"
