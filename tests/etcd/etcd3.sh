#!/usr/bin/env bash
# Every feature of the npm package etcd3, which has no tests of its own to run, used by
# etcd3.mjs.
#
#   tests/etcd/etcd3.sh HOST:PORT
set -euo pipefail

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# What is installed is named, with all it needs, by the lock file.
unpack() {
    cp "$ETCD_TESTS"/npm/package*.json "$1" && (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --silent)
}

endpoint=${1:?usage: etcd3.sh HOST:PORT}
command -v npm >/dev/null || install_system_packages nodejs npm
installed=$ETCD_CACHE/etcd3-$(sha256sum "$ETCD_TESTS/npm/package-lock.json" | cut -c 1-16)
once "$installed" unpack
cd "$installed"
node "$ETCD_TESTS/etcd3.mjs" "$endpoint"
