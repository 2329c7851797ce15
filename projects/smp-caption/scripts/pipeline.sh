#!/bin/sh
# Train in phases on the GPUs of this machine, one configuration after the other; the later ones start from the
# runs of the earlier ones, as their files say:
#   sh scripts/pipeline.sh config/ort/smp_0.95.yaml config/ort/scst_0.95.yaml
#   sh scripts/pipeline.sh config/up_down/dense.yaml config/up_down/hard_uniform_0.95.yaml -- --num_workers 8
# Flags after -- are for all phases. Called again after a break it goes on where it stopped. Under SLURM let a job
# wait for another instead:
#   first=$(sbatch --parsable scripts/slurm.sh --config config/ort/smp_0.95.yaml)
#   sbatch --dependency=afterok:"$first" scripts/slurm.sh --config config/ort/scst_0.95.yaml
set -eu

cd "$(dirname -- "$0")/.."
configs=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    configs="$configs$1
"
    shift
done
if [ -z "$configs" ]; then
    echo "error: no configuration: sh scripts/pipeline.sh FILE... [-- FLAG...]" >&2
    exit 2
fi
if [ $# -gt 0 ]; then
    shift
fi
set -f
IFS='
'
for config in $configs; do
    echo "phase: $config"
    sh scripts/train.sh --resume --config "$config" "$@"
done
