#!/usr/bin/env bash
# The tests of the Python client etcd3gw, which speaks to the JSON gateway, as they
# come with its source distribution. All of them are run.
#
#   tests/etcd/etcd3gw.sh HOST:PORT
set -euo pipefail

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

REQUIREMENTS=(
    certifi==2026.10.19.post1 charset-normalizer==3.5.2 debtcollector==3.1.0 fixtures==4.3.2 futurist==3.5.0
    idna==3.20 iniconfig==2.3.1 iso8601==2.1.0 oslotest==5.0.1 packaging==26.3 pbr==7.1.3 pluggy==1.7.0
    pygments==2.21.0 pytest==8.4.2 python-subunit==1.4.6 pyyaml==6.0.4 requests==2.34.2 setuptools==80.9.0
    testtools==2.9.1 urllib3==2.8.0 wrapt==2.5.2
)

endpoint=${1:?usage: etcd3gw.sh HOST:PORT}
install_python
installed=$ETCD_CACHE/etcd3gw-$ETCD3GW_VERSION
once "$installed" unpack_python "etcd3gw==$ETCD3GW_VERSION" "${REQUIREMENTS[@]}"

# Its client takes the port from a variable of its own, and the host to be this one.
cd "$installed/source"
TOOZ_TEST_HTTP_URL=http://$endpoint TOOZ_TEST_ETCD_PORT=${endpoint##*:} \
    "$installed/venv/bin/python" -m pytest -q -p no:cacheprovider etcd3gw/tests
