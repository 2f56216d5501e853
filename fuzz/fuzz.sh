#!/usr/bin/env bash
# Feeds every parser what nobody means. See docs/fuzzing.md.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: fuzz/fuzz.sh [--seconds N] [TARGET...]

Builds the targets and runs each for N seconds of one core [default: 60], or only
those named. What was learnt stays in fuzz/corpus and is where the next run begins.
An input that fails is left in fuzz/artifacts, and the script goes on and fails.
TEXT
}

SECONDS_EACH=60 TARGETS=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --seconds) SECONDS_EACH=${2:?--seconds needs a number}; shift 2 ;;
        -*) usage >&2; exit 2 ;;
        *) TARGETS+=("$1"); shift ;;
    esac
done

cd "$(dirname "${BASH_SOURCE[0]}")"
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is needed: cargo install cargo-fuzz" >&2; exit 1; }
# The fuzzer's instrumentation is not stable yet. Without a nightly toolchain the
# usual one is asked to take it all the same.
CARGO=(cargo)
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then CARGO+=(+nightly); else export RUSTC_BOOTSTRAP=1; fi

if ((${#TARGETS[@]} == 0)); then
    listed=$("${CARGO[@]}" fuzz list --fuzz-dir .)
    mapfile -t TARGETS <<<"$listed"
fi
"${CARGO[@]}" fuzz build --fuzz-dir .

FAILED=()
for target in "${TARGETS[@]}"; do
    mkdir -p "corpus/$target"
    folders=("corpus/$target")
    [[ ! -d seeds/$target ]] || folders+=("seeds/$target")
    options=(-max_total_time="$SECONDS_EACH" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
    # Targets that read the same share a dictionary: the first word of their names.
    [[ ! -f dictionaries/${target%%_*} ]] || options+=(-dict="dictionaries/${target%%_*}")
    echo "---- $target" >&2
    "${CARGO[@]}" fuzz run --fuzz-dir . "$target" "${folders[@]}" -- "${options[@]}" || FAILED+=("$target")
done
((${#FAILED[@]} == 0)) || { echo "failed: ${FAILED[*]}" >&2; exit 1; }
