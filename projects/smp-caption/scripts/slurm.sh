#!/bin/sh
#SBATCH --job-name=smp-caption
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# Train under SLURM, one task a GPU. A job that is preempted or runs out of time saves and goes on later:
#   sbatch scripts/slurm.sh --config config/up_down/smp_0.95.yaml
#   sbatch --dependency=afterok:JOB scripts/slurm.sh --config config/up_down/scst_0.95.yaml  # after the first
#   sbatch --ntasks-per-node=4 --export=ALL,PROJECT=/path/to/smp-caption scripts/slurm.sh ...
# SLURM runs a copy of this file: PROJECT names the project's folder (default: where `sbatch` was called, or the
# project that holds this file). Relative paths start there. PYTHON is the interpreter.
set -eu

home=$(dirname -- "$0")/..
for folder in "${PROJECT:-}" "$home" "${SLURM_SUBMIT_DIR:-}" "${SLURM_SUBMIT_DIR:-}/projects/smp-caption"; do
    if [ -n "$folder" ] && [ -f "$folder/src/smp_caption/train.py" ]; then
        cd "$folder"
        break
    fi
done
if [ ! -f src/smp_caption/train.py ]; then
    echo "error: the project's folder is not known: set PROJECT=/path/to/smp-caption" >&2
    exit 2
fi

PYTHON=${PYTHON:-python}
MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" | head -n 1)}
MASTER_PORT=${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHON MASTER_ADDR MASTER_PORT OMP_NUM_THREADS

stopped=0
stop() { # every task saves at the end of its step and leaves
    stopped=1
    scancel --signal=USR1 "$SLURM_JOB_ID"
}
trap stop USR1 TERM

# With --resume a run goes on with what its folder holds, and begins where it holds nothing.
srun --kill-on-bad-exit=1 sh -c '
    RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \
    exec "$PYTHON" -m smp_caption.train --resume "$@"' train "$@" &
child=$!
status=0
wait "$child" || status=$?
while kill -0 "$child" 2>/dev/null; do # a trapped signal ends `wait` before the tasks end
    status=0
    wait "$child" || status=$?
done
if [ "$stopped" = 1 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
