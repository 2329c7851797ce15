#!/bin/sh
# Train on the GPUs of this machine, one process each:
#   sh scripts/train.sh --config config/up_down/smp_0.95.yaml
# Arguments are those of `train`; relative paths start from the project's folder, wherever this is called from.
# PROCESSES sets their number (default: all GPUs, else 1), PYTHON the interpreter.
set -eu

cd "$(dirname -- "$0")/.."
PYTHON=${PYTHON:-python}
if [ -z "${PROCESSES:-}" ]; then
    PROCESSES=$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')
fi
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export OMP_NUM_THREADS
exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$PROCESSES" -m smp_caption.train "$@"
