#!/bin/sh
#SBATCH --job-name=channel-prune
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# Train on a SLURM cluster, in place of the original's own; with the flags of run_local.sh, from any folder:
#   sh projects/channel-prune/scripts/run_seven.sh nets/mobilenet_at_ilsvrc12_run.py -n=8 --learner=chn-pruned-rmt
# This submits itself: one task a node, -n=K processes in all, GPUS_PER_NODE of them on a node (default 8, and K where
# that is less). SBATCH_ARGS goes to sbatch, say "--partition=gpu". A job that is preempted or runs out of time saves
# and goes on later. Data: path.conf's data_dir_seven_..., else PRUNELAB_DATA, which all nodes must see.
# Written for SLURM and not tried with it: tests run it with stand-ins.
set -eu

case ${PRUNELAB_RUNS:-/} in /*) ;; *) PRUNELAB_RUNS=$(pwd)/$PRUNELAB_RUNS && export PRUNELAB_RUNS ;; esac
case ${PRUNELAB_DATA:-/} in /*) ;; *) PRUNELAB_DATA=$(pwd)/$PRUNELAB_DATA && export PRUNELAB_DATA ;; esac
for folder in "${PROJECT:-}" "$(dirname -- "$0")/.." "${SLURM_SUBMIT_DIR:-}"; do # SLURM runs a copy of this file
    if [ -n "$folder" ] && [ -f "$folder/src/channel_prune/train.py" ]; then
        cd "$folder"
        break
    fi
done
if [ ! -f src/channel_prune/train.py ]; then
    echo "error: the project's folder is not known: set PROJECT=/path/to/channel-prune" >&2
    exit 2
fi
. scripts/common.sh

GPUS_PER_NODE=${GPUS_PER_NODE:-8}
[ "$COUNT" -ge "$GPUS_PER_NODE" ] || GPUS_PER_NODE=$COUNT
[ $((COUNT % GPUS_PER_NODE)) = 0 ] || die "-n is $COUNT, expected a multiple of GPUS_PER_NODE, $GPUS_PER_NODE"

if [ -z "${SLURM_JOB_ID:-}" ]; then
    command -v sbatch >/dev/null 2>&1 || die "sbatch: no such program; on one machine: scripts/run_local.sh"
    PROJECT=$(pwd)
    export PROJECT GPUS_PER_NODE PYTHON
    # shellcheck disable=SC2086  # SBATCH_ARGS is a list of words
    exec sbatch --nodes=$((COUNT / GPUS_PER_NODE)) --gpus-per-node="$GPUS_PER_NODE" --export=ALL \
        ${SBATCH_ARGS:-} scripts/run_seven.sh "$PROGRAM" -n="$COUNT" "$@"
fi

CHANNEL_PRUNE_MODE=seven
MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" | head -n 1)}
MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
export CHANNEL_PRUNE_MODE MASTER_ADDR MASTER_PORT

stopped=0
stop() { # torchrun passes it on; every process saves at the end of its step and leaves
    stopped=1
    scancel --signal=TERM "$SLURM_JOB_ID"
}
trap stop USR1 TERM

# With --resume a run goes on with what its folder holds, and begins where it holds nothing.
srun --kill-on-bad-exit=1 "$PYTHON" -m torch.distributed.run \
    --nnodes $((COUNT / GPUS_PER_NODE)) --nproc_per_node "$GPUS_PER_NODE" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:$MASTER_PORT" \
    "$PROGRAM" --resume "$@" &
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
[ "$status" = 0 ] || echo "error: $PROGRAM failed with status $status" >&2
exit "$status"
