# Shared by the launch files beside it, which source it in the project's folder with their arguments.
# After it: PYTHON, PROGRAM (one of nets/), COUNT (the number of processes); these arguments are taken away.

# The interpreter: PYTHON, else the active one if it has this project, else that of the workspace.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if ! python -c 'import channel_prune' >/dev/null 2>&1 && [ -x ../../.venv/bin/python ]; then
        PYTHON=$(pwd)/../../.venv/bin/python
    fi
fi
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export OMP_NUM_THREADS

die() {
    echo "error: $*" >&2
    exit 2
}

[ $# -ge 1 ] || die "expected a program, one of: $(echo nets/*_run.py)"
PROGRAM=nets/$(basename -- "$1")
[ -f "$PROGRAM" ] || die "$1: no such program, expected one of: $(echo nets/*_run.py)"
shift

COUNT=1
left=$#
while [ "$left" -gt 0 ]; do
    word=$1
    shift
    left=$((left - 1))
    case $word in
    -n=* | -nb_gpus=* | --nb_gpus=*) COUNT=${word#*=} ;;
    -n | -nb_gpus | --nb_gpus)
        [ "$left" -gt 0 ] || die "$word needs a number"
        COUNT=$1
        shift
        left=$((left - 1))
        ;;
    *) set -- "$@" "$word" ;;
    esac
done
case $COUNT in
'' | *[!0-9]* | 0) die "the number of processes is '$COUNT', expected 1 or more" ;;
esac
