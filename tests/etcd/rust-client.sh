#!/usr/bin/env bash
# The tests of the Rust client etcd-client, as they come with the crate.
#
#   tests/etcd/rust-client.sh HOST:PORT [--range-stream]
#
# --range-stream adds those of streamed ranges, which etcd has from 3.7 on.
set -euo pipefail

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SKIPPED=(
    # Users and roles are not offered yet; the last of them also waits for tokens to expire.
    --skip test_auth
    --skip test_user
    --skip test_role
    # Ignored by the crate itself: test_cluster starts a fourth node by hand while it runs.
)

# The crate is unpacked by cargo; its tests have their endpoint in one constant.
unpack() {
    local probe=$1/probe source
    mkdir -p "$probe/src"
    : >"$probe/src/lib.rs"
    printf '[package]\nname = "probe"\nedition = "2024"\n[dependencies]\netcd-client = "=%s"\n' \
        "$ETCD_CLIENT_VERSION" >"$probe/Cargo.toml"
    (cd "$probe" && cargo fetch --quiet) || return
    source=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -name "etcd-client-$ETCD_CLIENT_VERSION" | head -n 1)
    cp -r "$source" "$1/crate" && rm -rf "$probe" && grep -q '"localhost:2379"' "$1/crate/tests/testing.rs" &&
        sed -i 's/"localhost:2379"/env!("TEST_ENDPOINT")/' "$1/crate/tests/testing.rs"
}

endpoint=${1:?usage: rust-client.sh HOST:PORT [--range-stream]}
install_system_packages protobuf-compiler libprotobuf-dev
require_cargo
once "$ETCD_CACHE/etcd-client-$ETCD_CLIENT_VERSION" unpack

run() {
    (cd "$ETCD_CACHE/etcd-client-$ETCD_CLIENT_VERSION/crate" &&
        TEST_ENDPOINT=$endpoint CARGO_TARGET_DIR=$ETCD_CACHE/target-etcd-client \
            cargo test --locked --quiet "$@")
}

run --test client --test namespace -- "${SKIPPED[@]}"
if [[ ${2-} == --range-stream ]]; then run --test client -- --ignored test_get_stream; fi
