#!/usr/bin/env bash
# Measures Kvorum and etcd side by side, by etcd's API over gRPC. See README.md here.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: benches/etcd.sh --binary KVORUM [options]

Starts three nodes of Kvorum and three of etcd on loopback in turn, never both at
once and every time in another order, loads each alike, and prints a table with the
ratio. The report goes to standard output, progress to standard error.

  --binary FILE        the kvorum binary (required)
  --bench FILE         the load generator [default: KVORUM bench]
  --peer-binary FILE   an etcd; may be given several times [default: etcd in the PATH]
  --parts LIST         what to measure [default: matrix], of: matrix, failover, fanout,
                       idle, range, keepalive, expiry, revoke
  --runs N             turns of each server; medians are shown [default: 5]
  --duration SECONDS   length of a measurement of the matrix [default: 10]
  --warmup SECONDS     before each [default: 2]
  --workloads LIST     of the matrix, of: put, get (linearizable), get-local (serializable),
                       mixed [default: put,get,get-local]
  --clients LIST       clients, one measurement for each [default: 256]
  --connections N      connections at most, spread over the nodes [default: 16]
  --keys N             distinct keys, written before anything is measured [default: 1000000]
  --value-size BYTES   [default: 256]
  --watchers N         of the parts "fanout" and "idle" [default: 10000, 100000]
  --leases N           of the parts "keepalive" and "expiry" [default: 100000]
  --lease-keys N       of the part "revoke" [default: 1000000]
  --range-keys N       of the part "range" [default: 100000]
  --base-port PORT     first of 40 ports [default: 24201]
  --dir DIR            where the temporary folder is made [default: TMPDIR, else /tmp]
  --keep               keep the folder (logs, JSON results)
TEXT
}

# shellcheck source=benches/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BINARY='' BENCH='' PEERS=() PARTS=matrix RUNS=5 DURATION=10 WARMUP=2 WORKLOADS=put,get,get-local CLIENTS=256
CONNECTIONS=16 KEYS=1000000 VALUE_SIZE=256 WATCHERS='' LEASES=100000 LEASE_KEYS=1000000 RANGE_KEYS=100000
BASE_PORT=24201 DIR=${TMPDIR:-/tmp} KEEP=''
own_option() {
    case $1 in
        --peer-binary) PEERS+=("$2") ;;
        --workloads) WORKLOADS=$2 ;;
        --watchers) WATCHERS=$2 ;;
        --leases) LEASES=$2 ;;
        --lease-keys) LEASE_KEYS=$2 ;;
        --range-keys) RANGE_KEYS=$2 ;;
        *) return 1 ;;
    esac
}
read_options "$@"
only_parts matrix failover fanout idle range keepalive expiry revoke
if ((${#PEERS[@]} == 0)); then
    PEERS=("$(command -v etcd)") || refuse "there is no etcd in the PATH; name one with --peer-binary"
fi
for peer in "${PEERS[@]}"; do
    [[ -x $peer ]] || refuse "--peer-binary: $peer is no program"
done
# Nothing from the caller's shell may configure the servers.
for variable in "${!KVORUM_@}" "${!ETCD_@}"; do unset "$variable"; done

# ---- the servers: Kvorum is number 0, the others are the peers

SERVERS=("$BINARY" "${PEERS[@]}")
NAMES=(Kvorum)
for peer in "${PEERS[@]}"; do NAMES+=("$("$peer" --version | awk 'NR == 1 {print "etcd " $NF}')"); done
GRPC_PORT=$((BASE_PORT + 10))
# The one that runs, if one does.
RUNNING=''

client_port() {
    if ((RUNNING == 0)); then echo "$GRPC_PORT"; else echo $((BASE_PORT + 20)); fi
}
endpoints() {
    local first
    first=$(client_port)
    echo "127.0.0.1:$first,127.0.0.1:$((first + 1)),127.0.0.1:$((first + 2))"
}

healthy() { curl -fsS -m 2 "http://127.0.0.1:$((BASE_PORT + 20 + $1 - 1))/health" 2>/dev/null | grep -q true; }

# Everything at its default except what three nodes on one machine need, and room for the keys.
start_etcd() { # BINARY
    local id peers=''
    for id in 1 2 3; do peers+=,n$id=http://127.0.0.1:$((BASE_PORT + 30 + id - 1)); done
    for id in 1 2 3; do
        local client=http://127.0.0.1:$((BASE_PORT + 20 + id - 1)) peer=http://127.0.0.1:$((BASE_PORT + 30 + id - 1))
        "$1" --name "n$id" --data-dir "$NODES/node$id" --quota-backend-bytes $((8 << 30)) \
            --listen-client-urls "$client" --advertise-client-urls "$client" \
            --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
            --initial-cluster "${peers#,}" >>"$NODES/node$id.log" 2>&1 &
        PID[$id]=$!
    done
    for id in 1 2 3; do until_true 60 "node $id of etcd is healthy" healthy "$id"; done
}

start_servers() { # NUMBER: with empty folders
    RUNNING=$1
    NODES=$WORK/turn
    mkdir "$NODES"
    if (($1 == 0)); then form_cluster; else start_etcd "${SERVERS[$1]}"; fi
}
end_servers() {
    local id
    for id in "${!PID[@]}"; do stop_node "$id" TERM; done
    if [[ -n $KEEP ]]; then
        for id in 1 2 3; do mv "$NODES/node$id.log" "$WORK/$1-node$id.log"; done
    fi
    rm -rf "$NODES"
    NODES=$WORK
}
etcd_leads() { # ID
    local asked
    asked=$(curl -fsS -m 2 -d '{}' "http://127.0.0.1:$((BASE_PORT + 20 + $1 - 1))/v3/maintenance/status" 2>/dev/null) &&
        jq -e '.leader == .header.member_id' <<<"$asked" >/dev/null
}
leading_node() {
    local id
    if ((RUNNING == 0)); then leader; return; fi
    for id in "${!PID[@]}"; do
        if etcd_leads "$id"; then echo "$id"; return; fi
    done
    return 1
}

# ---- the load generator

run_bench() { # FILE ARGUMENTS...
    bench "$@" --pids "$(pids)"
}
rates() { # FILE CLIENTS ARGUMENTS...
    local out=$1 clients=$2
    shift 2
    run_bench "$out" --api grpc --clients "$clients" --connections $((clients < CONNECTIONS ? clients : CONNECTIONS)) \
        --keys "$KEYS" --value-size "$VALUE_SIZE" --interval 0 "$@"
}

# turns PART: every server in turn, RUNS times, each time in another order. The part's
# function measures the server that runs, and gets the beginning of its results' names.
turns() {
    local run step number
    for ((run = 1; run <= RUNS; run++)); do
        for ((step = 0; step < ${#SERVERS[@]}; step++)); do
            number=$(((step + run - 1) % ${#SERVERS[@]}))
            log "$1: ${NAMES[$number]}, turn $run of $RUNS"
            start_servers "$number"
            "measure_$1" "$WORK/$1-$number-$run"
            end_servers "$1-$number-$run"
        done
    done
}

# ---- rates

measure_matrix() {
    local workload clients
    rates "$1-load.json" 256 --workload load --timeout 60
    for workload in ${WORKLOADS//,/ }; do
        for clients in ${CLIENTS//,/ }; do
            rates "$1-$workload-$clients.json" "$clients" --workload "$workload" --duration "$DURATION" --warmup "$WARMUP"
        done
    done
}
row() { # WORKLOAD CLIENTS NUMBER FILES: of one server; Kvorum's comes first
    local files=("$WORK/matrix-$3"-*-"$4.json") latency=".kinds[0].latency_us" rate p50 p99 cpu own errors
    rate=$(median_of .operations_per_second "${files[@]}")
    p50=$(median_of "$latency.p50" "${files[@]}")
    p99=$(median_of "$latency.p99" "${files[@]}")
    cpu=$(median_of .servers_cpu_us_per_operation "${files[@]}")
    own=$(median_of .client.cpu_us_per_operation "${files[@]}")
    errors=$(jq -s 'map(.errors.total) | add' "${files[@]}")
    if (($3 == 0)); then KVORUM_RATE=$rate; fi
    awk -v w="$1" -v c="$2" -v n="${NAMES[$3]}" -v r="$rate" -v a="$p50" -v b="$p99" -v s="$cpu" -v o="$own" -v e="$errors" \
        -v k="$KVORUM_RATE" -v number="$3" \
        'BEGIN {printf "| %s | %s | %s | %.0f | %.2f | %.2f | %.1f | %.1f | %d | %s |\n", w, c, n, r, a/1e3, b/1e3, s, o, e, number ? sprintf("%.2f", k/r) : "" }'
}
report_matrix() {
    echo "### Rates ($KEYS keys, values of $VALUE_SIZE bytes, $CONNECTIONS connections at most, medians of $RUNS runs of $DURATION s)"
    echo
    echo "| work | clients | server | ops/s | p50 ms | p99 ms | servers' CPU µs/op | client's CPU µs/op | errors | Kvorum's rate to this |"
    echo "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    local number workload clients
    for number in "${!SERVERS[@]}"; do row "load in order" 256 "$number" load; done
    for workload in ${WORKLOADS//,/ }; do
        for clients in ${CLIENTS//,/ }; do
            for number in "${!SERVERS[@]}"; do row "$workload" "$clients" "$number" "$workload-$clients"; done
        done
    done
    echo
    echo "\`get\` is linearizable, \`get-local\` serializable; both read one key. The percentiles of \`mixed\` are those of its puts."
}

# ---- single figures

# compare PART: a row for each figure that the files have, a column for each server.
compare() {
    local number name cells files
    printf '| figure'
    printf ' | %s' "${NAMES[@]}"
    printf ' |\n| ---'
    printf ' | ---:%.0s' "${NAMES[@]}"
    echo ' |'
    jq -r 'to_entries[] | select((.value | type) == "number" and (.key | test("_[0-9]+$") | not)) | .key' "$WORK/$1-"*.json |
        awk '!seen[$0]++' >"$WORK/names"
    while read -r name; do
        cells=
        for number in "${!SERVERS[@]}"; do
            files=("$WORK/$1-$number-"*.json)
            # Not every server is asked, and one that is may not tell every figure.
            if [[ -e ${files[0]} ]]; then cells+=" | $(median_of ".$name" "${files[@]}" | awk '$1 != "-" {printf "%.10g", $1}')"; else cells+=' |'; fi
        done
        echo "| $name$cells |"
    done <"$WORK/names"
}
measure_failover() {
    local id
    bench_start "$1.raw" --api grpc --workload failover --clients 64 --connections "$CONNECTIONS" --keys 10000 \
        --interval 0 --warmup 2 --duration 15
    # The writers have connected and found their pace.
    sleep 5
    id=$(leading_node) || fail "no leader before the kill"
    stop_node "$id" KILL
    bench_wait
    jq '{longest_write_gap_ms: .writes.longest_gap_ms, failed_requests: .errors.total}' "$1.raw" >"$1.json"
}
report_failover() {
    echo "### Kill -9 of the leader under 64 writers (medians of $RUNS)"
    echo
    compare failover
}

measure_fanout() {
    run_bench "$1.json" watch-fanout --watchers "${WATCHERS:-10000}" --streams 1
    run_bench "$1.streams" watch-fanout --watchers 1000 --streams 1000
    mv "$1.streams" "$WORK/streams-${1#"$WORK"/fanout-}.json"
}
report_fanout() {
    echo "### A change to ${WATCHERS:-10000} watchers on one stream (medians of $RUNS)"
    echo
    compare fanout
    echo
    echo "### A change to 1,000 watchers on as many streams (medians of $RUNS)"
    echo
    compare streams
}

measure_idle() { run_bench "$1.json" watch-idle --watchers "${WATCHERS:-100000}"; }
report_idle() {
    echo "### ${WATCHERS:-100000} idle watchers (medians of $RUNS)"
    echo
    compare idle
}

# etcd before 3.7 has no RangeStream; there the whole is one answer.
measure_range() {
    local arguments=(range-stream --keys "$RANGE_KEYS" --value-size "$VALUE_SIZE")
    if ((RUNNING == 0)); then
        run_bench "$1.json" "${arguments[@]}"
        run_bench "$1.unary" "${arguments[@]}" --no-fill --unary
    else
        run_bench "$1.unary" "${arguments[@]}" --unary
    fi
    mv "$1.unary" "$WORK/unary-${1#"$WORK"/range-}.json"
}
report_range() {
    echo "### All of $RANGE_KEYS keys by RangeStream (medians of $RUNS)"
    echo
    compare range
    echo
    echo "### All of $RANGE_KEYS keys in one answer (medians of $RUNS)"
    echo
    compare unary
}

measure_keepalive() { run_bench "$1.json" lease-keep-alive --leases "$LEASES"; }
report_keepalive() {
    echo "### $LEASES leases, each kept alive every 10 s (medians of $RUNS)"
    echo
    compare keepalive
}

measure_expiry() { run_bench "$1.json" lease-expiry --leases "$LEASES"; }
report_expiry() {
    echo "### $LEASES leases with a key each that expire at once under 16 writers (medians of $RUNS)"
    echo
    compare expiry
}

measure_revoke() { run_bench "$1.json" lease-revoke --keys "$LEASE_KEYS" --value-size "$VALUE_SIZE"; }
report_revoke() {
    echo "### A lease with $LEASE_KEYS keys that is revoked under 16 writers (medians of $RUNS)"
    echo
    compare revoke
}

begin_work
echo "## Kvorum and etcd, three nodes each"
echo
machine_facts
echo "- ${NAMES[*]:1}, at its defaults; one cluster at a time with the load generator on the same machine"
for part in ${PARTS//,/ }; do
    turns "$part"
    echo
    "report_$part"
done
