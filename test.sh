#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to a green suite.
#
#   ./test.sh            everything below
#   ./test.sh checks     format, lints, documentation
#   ./test.sh unit       the tests of every package
#   ./test.sh cluster    the cluster scenario against real processes
#
# A step that fails does not hide the next one. The last line counts the steps; a
# part of the scenario that was not reached counts as failed.
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
}

unit() {
    step 'tests of every package' cargo test "${CARGO_SELECTION[@]}" --quiet --no-fail-fast || true
}

# The scenario writes one line for each of its parts, whether reached or not.
cluster() {
    local parts verdict seconds name ended=0 binary=$KVORUM_BIN
    # An older binary must not stand in for one that does not build.
    step 'release build' build || binary=$KVORUM_BIN.not-built
    say '== cluster scenario'
    parts=$(mktemp)
    SCENARIO_RESULTS=$parts tests/scenario/cluster.sh "$binary" >&2 || ended=$?
    while IFS=$'\t' read -r verdict seconds name; do
        record "scenario: $name" "$seconds" "$verdict"
    done <"$parts"
    # It may end badly without a part to blame, and must not pass then.
    if ((ended != 0)) && ! grep -q '^FAILED' "$parts"; then record 'scenario' 0 FAILED; fi
    rm -f "$parts"
}

case ${1:-all} in
    all | checks | unit | cluster) ;;
    *) die "usage: ./test.sh [checks|unit|cluster]" ;;
esac

install_system_packages jq
require_cargo
cd "$ROOT"

case ${1:-all} in
    all)
        checks
        unit
        cluster
        ;;
    *) "$1" ;;
esac

printf '\n'
printf '%s\n' "${summary[@]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
