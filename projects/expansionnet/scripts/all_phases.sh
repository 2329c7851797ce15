#!/bin/sh
# ExpansionNet v2 (Hu et al., BigData 2023), COCO, Karpathy split.
# All phases one after the other, each from what the one before wrote.
# Row: Single, Karpathy test: B@1 82.8, B@4 41.5, METEOR 30.3, ROUGE-L 60.5, CIDEr-D 140.4, SPICE 24.5.
# Expected: 140.4 CIDEr-D on the test split, beam 5 (about 139.5 after phase 5, at which PHASES="1 2 3 4 5" ends).
# Hardware there: one GPU with 40 GB. Time: not stated, and not measured here.
# Command, from any folder; further arguments go to phases 2, 3, 5 and 6, the trainings:
#   sh projects/expansionnet/scripts/all_phases.sh
# Typed again, it goes on where it was stopped. SAVES is the folder of the runs, FEATURES the file of features,
# FEATURE_FLAGS are more arguments of phases 1 and 4 ("--dtype fp16"); PROCESSES and PYTHON are those of the phases.
set -eu

cd "$(dirname -- "$0")/.."
SAVES=${SAVES:-./github_ignore_material/saves}
FEATURES=${FEATURES:-./github_ignore_material/raw_data/features.hdf5}

phase() {
    case " ${PHASES:-1 2 3 4 5 6} " in
    *" $1 "*) ;;
    *) return 0 ;;
    esac
    number=$1
    shift
    echo "phase $number"
    sh "scripts/phase$number.sh" "$@"
}
finished() { [ -f "$SAVES/$1/finished.json" ]; }

# Phase 4 writes over what phase 1 wrote, so neither is done again once its reader has finished.
# shellcheck disable=SC2086  # FEATURE_FLAGS is a list of words
finished xe || phase 1 --output_path "$FEATURES" --resume ${FEATURE_FLAGS:-}
finished xe || phase 2 --output "$SAVES/xe" --features_path "$FEATURES" --resume "$@"
finished end_to_end_xe ||
    phase 3 --output "$SAVES/end_to_end_xe" --body_save_path "$SAVES/xe/last" --resume "$@"
# shellcheck disable=SC2086
finished rf ||
    phase 4 --output_path "$FEATURES" --save_model_path "$SAVES/end_to_end_xe/last" --resume ${FEATURE_FLAGS:-}
finished rf ||
    phase 5 --output "$SAVES/rf" --features_path "$FEATURES" \
        --body_save_path "$SAVES/end_to_end_xe/last" --resume "$@"
finished end_to_end_rf ||
    phase 6 --output "$SAVES/end_to_end_rf" --backbone_save_path "$SAVES/end_to_end_xe/last" \
        --body_save_path "$SAVES/rf/last" --resume "$@"
