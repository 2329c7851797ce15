#!/bin/sh
# Train a ResNet-18 on CIFAR-10 with a sparsity, from any folder:
#   sh projects/acosp-seg/tool/train_cifar10.sh 0.5
# Further arguments are those of `train_cifar10`. The run's folder is resnet18_SPARSITY in $PRUNELAB_RUNS/cifar10, else
# in /cifar10 where that exists, else in runs/cifar10 here. PROCESSES and PYTHON are as in train.sh.
set -eu

case ${PRUNELAB_RUNS:-/} in /*) ;; *) PRUNELAB_RUNS=$(pwd)/$PRUNELAB_RUNS ;; esac
cd "$(dirname -- "$0")/.."
. tool/common.sh
[ $# -ge 1 ] || die "expected a sparsity, say: 0.5"
sparsity=$1
shift
if [ -z "${PRUNELAB_RUNS:-}" ] && [ -d /cifar10 ]; then
    folder=/cifar10/resnet18_$sparsity
else
    folder=${PRUNELAB_RUNS:-runs}/cifar10/resnet18_$sparsity
fi
mkdir -p "$folder"
[ -e "$folder/metrics.jsonl" ] || cp tool/train_cifar10.py "$folder/train_$sparsity.py"
PROCESSES=${PROCESSES:-1}
launch train_gpu acosp_seg.train_cifar10 --save_dir "$folder" --sparsity "$sparsity" "$@"
