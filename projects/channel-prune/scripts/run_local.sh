#!/bin/sh
# Train on this machine, from any folder:
#   sh projects/channel-prune/scripts/run_local.sh nets/resnet_at_cifar10_run.py -n=2 --learner=chn-pruned-rmt
# Flags are those of `train`; -n=K or --nb_gpus=K starts K processes (default 1). Where CUDA_VISIBLE_DEVICES does not
# say which GPUs, the first K count whose memory is less than half in use. Relative paths start in the project's folder,
# but for PRUNELAB_DATA and PRUNELAB_RUNS, which start where this is typed. A run's log lies in its own folder, and the
# folder of another run is never touched. PYTHON sets the interpreter (default: the active one if it has this project,
# else the workspace's).
set -eu

case ${PRUNELAB_RUNS:-/} in /*) ;; *) PRUNELAB_RUNS=$(pwd)/$PRUNELAB_RUNS ;; esac
case ${PRUNELAB_DATA:-/} in /*) ;; *) PRUNELAB_DATA=$(pwd)/$PRUNELAB_DATA ;; esac
cd "$(dirname -- "$0")/.."
. scripts/common.sh

if [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && command -v nvidia-smi >/dev/null 2>&1; then
    idle=$(nvidia-smi --query-gpu=index,memory.used,memory.total --format=csv,noheader,nounits |
        awk -F, -v most="$COUNT" '$2 < $3 / 2 && n < most { printf "%s%d", (n++ ? "," : ""), $1 }')
    found=$(echo "$idle" | awk -F, '{ print NF }')
    [ "$found" -ge "$COUNT" ] || die "$found GPUs have half of their memory free, expected $COUNT (-n)"
    CUDA_VISIBLE_DEVICES=$idle
    export CUDA_VISIBLE_DEVICES
fi

status=0
if [ "$COUNT" -gt 1 ]; then
    "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$COUNT" "$PROGRAM" "$@" || status=$?
else
    "$PYTHON" "$PROGRAM" "$@" || status=$?
fi
[ "$status" = 0 ] || echo "error: $PROGRAM failed with status $status" >&2
exit "$status"
