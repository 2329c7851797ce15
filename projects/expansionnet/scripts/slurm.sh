#!/bin/sh
#SBATCH --job-name=expansionnet
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# Run a phase, or any training, under SLURM, one task a node, one process a GPU. A job that is preempted or runs out
# of time saves and goes on later:
#   sbatch scripts/slurm.sh phase2
#   sbatch --nodes=2 --gpus-per-node=4 --export=ALL,PROJECT=/path/to/expansionnet scripts/slurm.sh phase5 --lr 5e-5
#   sbatch scripts/slurm.sh local train --is_end_to_end False --features_path features.hdf5 --output runs/mine
# The first word names a file beside this one. SLURM runs a copy of this file: PROJECT names the project's folder
# (default: where `sbatch` was called, or the project that holds this file). Relative paths start there.
# Written for SLURM and not tried with it: tests run it with stand-ins.
set -eu

home=$(dirname -- "$0")/..
for folder in "${PROJECT:-}" "$home" "${SLURM_SUBMIT_DIR:-}" "${SLURM_SUBMIT_DIR:-}/projects/expansionnet"; do
    if [ -n "$folder" ] && [ -f "$folder/src/expansionnet/train.py" ]; then
        cd "$folder"
        break
    fi
done
if [ ! -f src/expansionnet/train.py ]; then
    echo "error: the project's folder is not known: set PROJECT=/path/to/expansionnet" >&2
    exit 2
fi
what=${1:-}
if [ ! -f "scripts/$what.sh" ] || [ "$what" = slurm ]; then
    echo "error: ${what:-nothing} is no launch file, expected phase1 ... phase6 or local" >&2
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
