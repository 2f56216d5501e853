#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to a running local cluster.
#
#   ./run.sh [ARGUMENT...]   installs, builds, then runs `kvorum local ARGUMENT...`
#   ./run.sh build           installs and builds; the last line is the binary's path
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"

# shellcheck disable=SC2119  # the packages named there suffice
install_system_packages
require_cargo
build

if [[ ${1:-} == build ]]; then
    printf '%s\n' "$KVORUM_BIN"
    exit
fi
exec "$KVORUM_BIN" local "$@"
