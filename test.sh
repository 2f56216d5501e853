#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to a green suite.
#
#   ./test.sh            everything below
#   ./test.sh checks     format, lints, documentation
#   ./test.sh unit       the tests of every package
#   ./test.sh cluster    the cluster scenario against real processes
#   ./test.sh etcd       etcd's clients, and etcd itself beside Kvorum
#   ./test.sh torture    five minutes of faults, with a fixed seed and with a random one
#   ./test.sh simulate   simulated clusters, some seeds fixed and some new
#
# A step that fails does not hide the next one. The last line counts the steps; a
# part of the scenario that was not reached counts as failed. What follows `etcd` is
# given to tests/etcd/run.sh.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"

passed=0
failed=0
summary=()

# Records how a step ended: record NAME SECONDS ok|FAILED
record() {
    if [[ $3 == ok ]]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    summary+=("$(printf '%-6s %5ss  %s' "$3" "$2" "$1")")
}

# Runs a command as a step; what it prints is shown as it comes.
step() {
    local name=$1 started=$SECONDS verdict=ok
    shift
    say "== $name"
    "$@" >&2 || verdict=FAILED
    record "$name" $((SECONDS - started)) "$verdict"
    [[ $verdict == ok ]]
}

checks() {
    step 'format' cargo fmt --all --check || true
    step 'lints' cargo clippy "${CARGO_SELECTION[@]}" --all-targets -- -D warnings || true
    # Only rustdoc reads its flags, so no dependency is compiled again for them.
    step 'documentation' env RUSTDOCFLAGS='-D warnings' cargo doc "${CARGO_SELECTION[@]}" --no-deps || true
    # A workspace of its own, which nothing else compiles.
    step 'fuzz targets' env CARGO_TARGET_DIR="$CACHE_DIR/fuzz" \
        cargo check --release --locked --quiet --manifest-path fuzz/Cargo.toml || true
}

# Compiled apart, while the torture runs, which leaves the processor half idle.
compile_tests() {
    step 'build of all tests' cargo test "${CARGO_SELECTION[@]}" --quiet --no-run || true
}

unit() {
    step 'tests of every package' cargo test "${CARGO_SELECTION[@]}" --quiet --no-fail-fast || true
}

script=''
script_name=''

# begin NAME OUTPUT SCRIPT [ARGUMENT...]: starts a script, whose parts `finish` records. It
# prints into the file OUTPUT, or where the others print if that is empty.
# It writes one line for each of them, whether reached or not, to the file that is named
# by PARTS.
begin() {
    local output=$2
    script_name=$1
    shift 2
    PARTS=$(mktemp)
    trap end_parts EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # In a process group of its own, whose shell outlives the signal that ends the script.
    set -m
    (
        trap : TERM
        if [[ -n $output ]]; then exec >"$output" 2>&1; else exec >&2; fi
        "$@"
    ) </dev/null &
    set +m
    script=$!
}

finish() {
    local verdict seconds part ended=0
    wait "$script" || ended=$?
    script=''
    while IFS=$'\t' read -r verdict seconds part; do
        record "$script_name: $part" "$seconds" "$verdict"
    done <"$PARTS"
    # It may end badly without a part to blame, and must not pass then.
    if ((ended != 0)) && ! grep -q '^FAILED' "$PARTS"; then record "$script_name" 0 FAILED; fi
    rm -f "$PARTS"
    trap - EXIT INT TERM
}

# parts NAME SCRIPT [ARGUMENT...]
parts() {
    local name=$1
    shift
    begin "$name" '' "$@"
    finish
}

# Ends the script, with all that it started, when this one is ended meanwhile.
end_parts() {
    if [[ -n $script ]]; then
        kill -TERM -- "-$script" 2>/dev/null || true
        wait "$script" 2>/dev/null || true
    fi
    rm -f "$PARTS"
}

binary=''

# An older binary must not stand in for one that does not build.
build_release() {
    [[ -z $binary ]] || return 0
    binary=$KVORUM_BIN
    step 'release build' build || binary=$KVORUM_BIN.not-built
}

cluster() {
    build_release
    say '== cluster scenario'
    parts scenario run_scenario
}

run_scenario() {
    SCENARIO_RESULTS=$PARTS tests/scenario/cluster.sh "$binary"
}

# An example is no binary of the workspace, so it is built besides.
build_sample() {
    sample=$(dirname "$KVORUM_BIN")/examples/sample
    step 'build of the program for sample snapshots' cargo build "${CARGO_SELECTION[@]}" --example sample ||
        sample+=.not-built
}

# shellcheck disable=SC2120  # what follows `etcd` on the command line
etcd() {
    build_release
    build_sample
    say '== etcd clients'
    parts etcd run_etcd "$@"
}

run_etcd() {
    ETCD_RESULTS=$PARTS SAMPLE=$sample tests/etcd/run.sh "$binary" "$@"
}

torture() {
    build_release
    say '== torture'
    parts torture run_torture
}

# Two halves: what one seed does must stay found, and every run looks for something new.
# The programs are copied, so that nothing that is built meanwhile replaces them.
run_torture() {
    local folder half started verdict options
    folder=$(mktemp -d)
    cp "$binary" "$(dirname "$binary")"/{kvorum-torture,libkvorum_torture_preload.so} "$folder"
    for half in 'fixed seed' 'random seed'; do
        started=$SECONDS verdict=ok
        options=(--binary "$folder/kvorum" --preload "$folder/libkvorum_torture_preload.so" --duration 150)
        [[ $half == 'random seed' ]] || options+=(--seed 1)
        "$folder/kvorum-torture" run --folder "$folder/runs" "${options[@]}" || verdict=FAILED
        printf '%s\t%s\t%s\n' "$verdict" $((SECONDS - started)) "$half" >>"$PARTS"
    done
    if grep -q '^FAILED' "$PARTS"; then
        say "what is left of the torture: $folder"
    else
        rm -rf "$folder"
    fi
}

# A short form of what `./simulate.sh --seeds 1000` does: the same seeds each time, and new ones.
simulate() {
    step 'simulation: it repeats, and finds planted bugs' ./simulate.sh test || true
    step 'simulated clusters, fixed seeds' ./simulate.sh --seeds 150 || true
    step 'simulated clusters, new seeds' ./simulate.sh --seeds 150 --from $((1 + RANDOM * RANDOM)) || true
}

# What only compiles goes on meanwhile; nothing does that looks at the clock.
everything() {
    local log
    build_release
    log=$(mktemp)
    say '== torture (in the background; its output follows)'
    begin torture "$log" run_torture
    checks
    compile_tests
    step 'build of the simulation' ./simulate.sh build || true
    say '== torture'
    finish
    cat "$log" >&2
    rm -f "$log"
    simulate
    unit
    cluster
    # shellcheck disable=SC2119  # no options, whatever this script was given
    etcd
}

case ${1:-all} in
    all | checks | unit | cluster | etcd | torture | simulate) ;;
    *) die "usage: ./test.sh [checks|unit|cluster|etcd|torture|simulate]" ;;
esac

install_system_packages e2fsprogs jq mount
require_cargo
cd "$ROOT"

case ${1:-all} in
    all) everything ;;
    *) "$@" ;;
esac

printf '\n'
printf '%s\n' "${summary[@]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
