#!/bin/sh
# Train in a container, from any folder, with the flags of run_local.sh:
#   sh projects/channel-prune/scripts/run_docker.sh nets/resnet_at_ilsvrc12_run.py -n=4 --learner=chn-pruned-rmt
# The image is built from the Dockerfile beside this folder if there is none; DOCKER names another program (podman),
# IMAGE another image. Data: the folder that path.conf names for the program's data set (data_dir_local_...), else that
# of PRUNELAB_DATA. What is written goes to PRUNELAB_RUNS, else to `runs` in the project's folder.
# Written for Docker and not tried with it: tests run it with a stand-in.
set -eu

case ${PRUNELAB_RUNS:-/} in /*) ;; *) PRUNELAB_RUNS=$(pwd)/$PRUNELAB_RUNS ;; esac
case ${PRUNELAB_DATA:-/} in /*) ;; *) PRUNELAB_DATA=$(pwd)/$PRUNELAB_DATA ;; esac
cd "$(dirname -- "$0")/.."
PYTHON=python
. scripts/common.sh

DOCKER=${DOCKER:-docker}
IMAGE=${IMAGE:-channel-prune}
command -v "$DOCKER" >/dev/null 2>&1 || die "$DOCKER: no such program; without containers: scripts/run_local.sh"
if ! "$DOCKER" image inspect "$IMAGE" >/dev/null 2>&1; then
    "$DOCKER" build --tag "$IMAGE" --file Dockerfile ../..
fi

runs=${PRUNELAB_RUNS:-$(pwd)/runs}
mkdir -p "$runs"
dataset=$(echo "$PROGRAM" | sed 's/.*_at_\(.*\)_run\.py/\1/')
data=
if [ -f path.conf ]; then
    data=$(sed -n "s/^ *data_dir_local_$dataset *= *\([^# ]*\).*/\1/p" path.conf)
fi
if [ -n "$data" ] && [ "$data" != None ]; then
    set -- --data_dir_local=/opt/ml/data "$@"
else
    data=${PRUNELAB_DATA:-$(pwd)/data}
fi
gpus=
if command -v nvidia-smi >/dev/null 2>&1; then
    gpus="--gpus all"
fi
status=0
# shellcheck disable=SC2086  # two words
"$DOCKER" run --rm --ipc=host --user "$(id -u):$(id -g)" $gpus \
    --volume "$data:/opt/ml/data:ro" --volume "$runs:/runs" \
    --env PRUNELAB_DATA=/opt/ml/data --env PRUNELAB_RUNS=/runs \
    "$IMAGE" sh scripts/run_local.sh "$PROGRAM" -n="$COUNT" "$@" || status=$?
[ "$status" = 0 ] || echo "error: $PROGRAM failed with status $status" >&2
exit "$status"
