#!/bin/sh
#SBATCH --job-name=apt-vit
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# Run a training under SLURM, one task a node, one process a GPU. A job that is preempted or runs out of time saves
# and goes on later:
#   sbatch scripts/slurm.sh train_cifar 100
#   sbatch --nodes=2 --gpus-per-node=4 --export=ALL,PROJECT=/path/to/apt-vit scripts/slurm.sh train_cifar 10 --amp bf16
#   sbatch scripts/slurm.sh local train --name pets --dataset folder --data-dir pets
# The first word names a file beside this one. SLURM runs a copy of this file: PROJECT names the project's folder
# (default: where `sbatch` was called, or the project that holds this file). Relative paths start there.
# Written for SLURM and not tried with it: tests run it with stand-ins.
set -eu

home=$(dirname -- "$0")/..
for folder in "${PROJECT:-}" "$home" "${SLURM_SUBMIT_DIR:-}" "${SLURM_SUBMIT_DIR:-}/projects/apt-vit"; do
    if [ -n "$folder" ] && [ -f "$folder/src/apt_vit/train.py" ]; then
        cd "$folder"
        break
    fi
done
if [ ! -f src/apt_vit/train.py ]; then
    echo "error: the project's folder is not known: set PROJECT=/path/to/apt-vit" >&2
    exit 2
fi
what=${1:-}
if [ ! -f "scripts/$what.sh" ] || [ "$what" = slurm ] || [ "$what" = common ]; then
    echo "error: ${what:-nothing} is no launch file, expected train_cifar or local" >&2
    exit 2
fi
shift

MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" | head -n 1)}
MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
TORCHRUN="--nnodes ${SLURM_JOB_NUM_NODES:-1} --nproc_per_node ${SLURM_GPUS_ON_NODE:-1} --rdzv_id $SLURM_JOB_ID"
TORCHRUN="$TORCHRUN --rdzv_backend c10d --rdzv_endpoint $MASTER_ADDR:$MASTER_PORT"
PROCESSES=1 # what starts them is TORCHRUN
export TORCHRUN PROCESSES

stopped=0
stop() { # torchrun passes it on; every process saves at the end of its step and leaves
    stopped=1
    scancel --signal=TERM "$SLURM_JOB_ID"
}
trap stop USR1 TERM

# With --resume a run goes on with what its folder holds, and begins where it holds nothing.
srun --kill-on-bad-exit=1 sh "scripts/$what.sh" "$@" --resume &
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
