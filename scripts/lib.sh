# shellcheck shell=bash
# What run.sh, test.sh and .ci/run share: system packages, the toolchain, and how
# cargo is called. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/kvorum

# Absolute, because cargo runs in the repository and the caller may be elsewhere.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE_DIR/target}
[[ $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR
export CARGO_TARGET_DIR

# Every cargo call of the project takes these. Another selection of packages or
# features, another profile, or RUSTFLAGS unifies features differently and
# compiles RocksDB's C++ once more, which takes a quarter of an hour.
CARGO_SELECTION=(--release --workspace --locked)

# shellcheck disable=SC2034  # read by the scripts that source this file
KVORUM_BIN=$CARGO_TARGET_DIR/release/kvorum

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "error: $*"
    exit 1
}

# Prints the packages of those named that this Debian or Ubuntu lacks.
missing_packages() {
    local package state
    for package in "$@"; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $state == installed ]] || printf '%s\n' "$package"
    done
}

# Prints what the build and the suite call and cannot find; for systems without apt.
missing_commands() {
    local command
    for command in clang g++ make pkg-config "$@"; do
        command -v "$command" >/dev/null || printf '%s\n' "$command"
    done
}

# Installs what the build needs, and the packages named besides; only what is missing.
install_system_packages() {
    local packages=(ca-certificates clang curl g++ libclang-dev make pkg-config "$@")
    local missing=() as_root=()
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        mapfile -t missing < <(missing_commands curl "$@")
        ((${#missing[@]} == 0)) || die "this system has no apt-get, and these commands are missing: ${missing[*]}." \
            "Install them and libclang (on Fedora: clang clang-devel gcc-c++ make pkgconf curl jq) and start again."
        return
    fi
    mapfile -t missing < <(missing_packages "${packages[@]}")
    ((${#missing[@]} > 0)) || return 0
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "run this as root, or install these packages: ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# Finds cargo, also where rustup puts it without the shell's knowing.
require_cargo() {
    local home=${CARGO_HOME:-$HOME/.cargo}
    if ! command -v cargo >/dev/null && [[ -x $home/bin/cargo ]]; then
        PATH=$home/bin:$PATH
    fi
    command -v cargo >/dev/null || die "cargo is not installed. Install Rust as https://rustup.rs says:" \
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
}

# Builds every binary of the workspace; what cargo prints goes to standard error.
build() {
    (cd "$ROOT" && cargo build "${CARGO_SELECTION[@]}") >&2
}
