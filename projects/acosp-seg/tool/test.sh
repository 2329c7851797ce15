#!/bin/sh
# Test what a configuration trained, from any folder:
#   sh projects/acosp-seg/tool/test.sh cityscapes pspnet50
# Further arguments are those of `test`: --model FILE, --device cpu, KEY VALUE. Folders, PROCESSES and PYTHON are as
# in train.sh.
set -eu

case ${PRUNELAB_RUNS:-/} in /*) ;; *) PRUNELAB_RUNS=$(pwd)/$PRUNELAB_RUNS ;; esac
cd "$(dirname -- "$0")/.."
. tool/common.sh
find_run "$@"
shift 2

logged "$EXP_DIR/result/test-$(date +%Y%m%d_%H%M%S).log" launch test_gpu acosp_seg.test --config "$CONFIG" "$@"
