#!/usr/bin/env bash
# Real nodes under real faults: builds what is needed and starts a run.
#
#   ./torture.sh                              five minutes, all faults, a random seed
#   ./torture.sh --duration 60 --seed 7       repeats the faults of a seed
#   ./torture.sh --faults kill-leader,one-way only these
#   ./torture.sh mutants                      builds that have a planted bug must be caught
#   ./torture.sh check FOLDER                 judges a recorded run again
#   ./torture.sh faults                       lists all faults
#   ./torture.sh merge LEDGER OTHER           makes one ledger of two
#   ./torture.sh --help                       everything else
#
# What is printed last is the verdict; a run that found a broken promise ends with 1.
# docs/reliability.md explains what is promised and how it is checked.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"

TORTURE=$CARGO_TARGET_DIR/release/kvorum-torture
PRELOAD=$CARGO_TARGET_DIR/release/libkvorum_torture_preload.so
MUTANTS=$CARGO_TARGET_DIR/release/kvorum-with-mutants

install_system_packages e2fsprogs mount
require_cargo

if [[ ${1:-} == mutants ]]; then
    shift
    # The planted bugs are features, and features select what `kvorum` means: the binary
    # that has them is put aside, and the one for users is made again.
    (cd "$ROOT" && cargo build "${CARGO_SELECTION[@]}" --features kvorum/mutants) >&2
    cp "$KVORUM_BIN" "$MUTANTS.new"
    mv "$MUTANTS.new" "$MUTANTS"
    build
    exec "$TORTURE" mutants --binary "$MUTANTS" --preload "$PRELOAD" "$@"
fi

build
case ${1:-} in
    check | faults | merge) exec "$TORTURE" "$@" ;;
esac
commit=$(git -C "$ROOT" describe --always --dirty --abbrev=10 2>/dev/null || printf 'unknown')
exec "$TORTURE" run --binary "$KVORUM_BIN" --preload "$PRELOAD" --commit "$commit" "$@"
