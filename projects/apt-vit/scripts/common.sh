# Shared by the launch files beside it, which source it in the project's folder.
# `launch COMMAND ...` starts a command of the project: in PROCESSES processes of this machine (default: 1), or as
# the part of a cluster's job that TORCHRUN describes. PYTHON sets the interpreter (default: the active one if it
# has this project, else the workspace's).

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if ! python -c 'import apt_vit' >/dev/null 2>&1 && [ -x ../../.venv/bin/python ]; then
        PYTHON=$(pwd)/../../.venv/bin/python
    fi
fi
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export OMP_NUM_THREADS

launch() {
    command=$1
    shift
    if [ -n "${TORCHRUN:-}" ]; then
        # shellcheck disable=SC2086  # a list of words
        exec "$PYTHON" -m torch.distributed.run $TORCHRUN -m "apt_vit.$command" "$@"
    elif [ "${PROCESSES:-1}" != 1 ]; then
        exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$PROCESSES" \
            -m "apt_vit.$command" "$@"
    fi
    exec "$PYTHON" -m "apt_vit.$command" "$@"
}
