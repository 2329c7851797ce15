#!/bin/sh
# Train a configuration, then test what came out, from any folder:
#   sh projects/acosp-seg/tool/train.sh cityscapes pspnet50
# reads config/cityscapes/cityscapes_pspnet50.yaml of this project. Further arguments are those of `train`:
# --resume, --device cpu, KEY VALUE. The folder of a run is $PRUNELAB_RUNS/DATASET/NAME, else /logs/exp/DATASET/NAME
# where /logs/exp exists, else runs/DATASET/NAME here; it gets `model`, `result` and copies of what made it.
# PROCESSES sets the number of processes (default: the GPUs of train_gpu that exist, else 1), PYTHON the interpreter
# (default: the active one if it has this project, else the workspace's).
set -eu

case ${PRUNELAB_RUNS:-/} in /*) ;; *) PRUNELAB_RUNS=$(pwd)/$PRUNELAB_RUNS ;; esac
cd "$(dirname -- "$0")/.."
. tool/common.sh
find_run "$@"
shift 2

now=$(date +%Y%m%d_%H%M%S)
if [ ! -e "$EXP_DIR/model/metrics.jsonl" ]; then # a run that is there keeps what made it
    cp tool/train.sh tool/train.py tool/test.sh tool/test.py tool/common.sh "$CONFIG" "$EXP_DIR"
fi
logged "$EXP_DIR/model/train-$now.log" launch train_gpu acosp_seg.train --config "$CONFIG" "$@" || {
    status=$?
    echo "error: the training failed with status $status: $EXP_DIR/model/train-$now.log" >&2
    exit "$status"
}

# The run's own configuration holds what was typed above as well.
[ ! -f "$EXP_DIR/model/config.yaml" ] || CONFIG=$EXP_DIR/model/config.yaml
logged "$EXP_DIR/result/test-$now.log" launch test_gpu acosp_seg.test --config "$CONFIG"
