# Shared by the launch files beside it, which source it in the project's folder with their arguments.
# After it: CONFIG, EXP_DIR, PYTHON; functions `launch` and `logged`.

# The interpreter: PYTHON, else the active one if it has this project, else that of the workspace.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if ! python -c 'import acosp_seg' >/dev/null 2>&1 && [ -x ../../.venv/bin/python ]; then
        PYTHON=$(pwd)/../../.venv/bin/python
    fi
fi
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export OMP_NUM_THREADS

die() {
    echo "error: $*" >&2
    exit 2
}

# Sets CONFIG and EXP_DIR of a data set and a name; a missing configuration of the CamVid study is made.
find_run() {
    [ $# -ge 2 ] || die "expected a data set and the name of a configuration, say: cityscapes pspnet50"
    CONFIG=config/$1/$1_$2.yaml
    if [ ! -f "$CONFIG" ]; then
        CONFIG=config/$1/study/$1_$2.yaml
        if [ "$1" = camvid ] && [ ! -f "$CONFIG" ]; then
            "$PYTHON" -m acosp_seg.study --name "$2" || exit 2
        fi
    fi
    [ -f "$CONFIG" ] || die "config/$1/$1_$2.yaml: no such file, expected one of: $(ls config | tr '\n' ' ')"
    # As acosp_seg.layout resolves save_path: what is there, PRUNELAB_RUNS, /logs/exp, runs.
    if [ -d "/logs/exp/$1/$2/model" ] || { [ -z "${PRUNELAB_RUNS:-}" ] && [ -d /logs/exp ]; }; then
        EXP_DIR=/logs/exp/$1/$2
    else
        EXP_DIR=${PRUNELAB_RUNS:-runs}/$1/$2
    fi
    mkdir -p "$EXP_DIR/model" "$EXP_DIR/result" || exit 2
}

# Starts a module in one process for each GPU that the key $1 of the configuration lists and that exists.
# PROCESSES sets another number (of any device).
launch() {
    key=$1 module=$2
    shift 2
    if [ -z "${PROCESSES:-}" ]; then
        listed=$(sed -n "s/^ *$key: *\[\(.*\)\].*/\1/p" "$CONFIG")
        gpus=$("$PYTHON" -c '
import sys, torch
count = torch.cuda.device_count()
print(",".join(gpu for gpu in sys.argv[1].replace(" ", "").split(",") if gpu and int(gpu) < count))' "$listed")
        if [ -n "$gpus" ] && [ -z "${CUDA_VISIBLE_DEVICES:-}" ]; then
            CUDA_VISIBLE_DEVICES=$gpus
            export CUDA_VISIBLE_DEVICES
        fi
        PROCESSES=$(echo "$gpus" | awk -F, '{ print (NF > 1) ? NF : 1 }')
    fi
    if [ "$PROCESSES" -gt 1 ]; then
        "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$PROCESSES" -m "$module" "$@"
    else
        "$PYTHON" -m "$module" "$@"
    fi
}

# Runs a command with its output on the screen and in a file, and gives the command's own status.
logged() {
    log=$1
    shift
    { status=$({ { code=0; "$@" 2>&1 3>&- 4>&- || code=$?; echo $code >&3; } | tee "$log" >&4; } 3>&1); } 4>&1
    return "$status"
}
