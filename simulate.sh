#!/usr/bin/env bash
# Runs simulated clusters, each from a seed, and says which ones broke a promise.
#
#   ./simulate.sh --seeds N [--from S]   N seeds on all cores
#   ./simulate.sh --seeds N --ledger F   and adds a line to a ledger
#   ./simulate.sh --seed S --show        one seed, with what happens in it
#   ./simulate.sh test                   that it repeats, and finds planted bugs
#   ./simulate.sh build                  only what takes long
#
# What is simulated and what is real: simulation/src/main.rs.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"

# A workspace of its own, with other features and another RocksDB: it shares nothing with
# the server's artefacts, and must not be in the way of whoever builds them.
CARGO_TARGET_DIR=${KVORUM_SIMULATION_TARGET_DIR:-$CACHE_DIR/simulation}
require_cargo
(cd "$ROOT/simulation" && cargo build --release --locked --quiet) >&2
case ${1:-} in
    build) (cd "$ROOT/simulation" && exec cargo test --release --locked --quiet --test runs --no-run) >&2 ;;
    test) (cd "$ROOT/simulation" && exec cargo test --release --locked --quiet --test runs) >&2 ;;
    *)
        commit=$(git -C "$ROOT" describe --always --dirty --abbrev=10 2>/dev/null || printf 'unknown')
        KVORUM_COMMIT=$commit exec "$CARGO_TARGET_DIR/release/kvorum-simulation" "$@"
        ;;
esac
