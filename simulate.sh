#!/usr/bin/env bash
# Runs simulated clusters, each from a seed, and says which ones broke a promise.
#
#   ./simulate.sh --seeds N [--from S]   N seeds on all cores
#   ./simulate.sh --seed S --show        one seed, with what happens in it
#
# What is simulated and what is real: simulation/src/main.rs.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/simulation"
cargo build --release --locked --quiet
exec "${CARGO_TARGET_DIR:-target}/release/kvorum-simulation" "$@"
