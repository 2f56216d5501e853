#!/usr/bin/env bash
# Measures a local cluster of three nodes and prints Markdown. See README.md here.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: benches/run.sh --binary KVORUM [options]

Starts three nodes on loopback in a temporary folder, measures them, and ends
what it started. The report goes to standard output, progress to standard error.

  --binary FILE        the kvorum binary (required)
  --bench FILE         the load generator [default: KVORUM bench]
  --parts LIST         what to measure [default: matrix], of: matrix, load, restart, failover, snapshot
  --runs N             runs per cell of the matrix; medians are shown [default: 3]
  --duration SECONDS   length of a run [default: 10]
  --warmup SECONDS     before each run [default: 2]
  --clients LIST       clients of the matrix's puts [default: 1,16,64,256,1000]
  --connections N      connections at most per run [default: one per client]
  --keys N             distinct keys of the matrix [default: 1000000]
  --value-size BYTES   [default: 256]
  --load N             write N keys before all else and sample memory; implies the part "load"
  --snapshot-mib N     what the part "snapshot" writes first [default: 1024]
  --rounds N           rounds of "restart" and "failover" [default: 5]
  --base-port PORT     first of three ports [default: 24101]
  --dir DIR            where the temporary folder is made [default: TMPDIR, else /tmp]
  --keep               keep the folder (data, logs, JSON results)
TEXT
}

# shellcheck source=benches/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BINARY='' BENCH='' PARTS='' RUNS=3 DURATION=10 WARMUP=2 CLIENTS=1,16,64,256,1000 CONNECTIONS='' KEYS=1000000
VALUE_SIZE=256 LOAD=0 SNAPSHOT_MIB=1024 ROUNDS=5 BASE_PORT=24101 DIR=${TMPDIR:-/tmp} KEEP=''
own_option() {
    case $1 in
        --load) LOAD=$2 ;;
        --snapshot-mib) SNAPSHOT_MIB=$2 ;;
        --rounds) ROUNDS=$2 ;;
        *) return 1 ;;
    esac
}
read_options "$@"
[[ -n $PARTS ]] || { ((LOAD > 0)) && PARTS=load || PARTS=matrix; }
if ((LOAD > 0)) && [[ ,$PARTS, != *,load,* ]]; then PARTS=load,$PARTS; fi
((LOAD > 0)) || LOAD=$KEYS
only_parts matrix load restart failover snapshot
COMMAND+=(--value-size "$VALUE_SIZE")

endpoints() { echo "$(http 1),$(http 2),$(http 3)"; }
# writes_flow: the leader's log grows
writes_flow() {
    local leads first second
    leads=$(leader) && first=$(field "$leads" last_log_index) && sleep 0.2 && second=$(field "$leads" last_log_index)
    [[ -n $first && -n $second ]] && ((second > first))
}
connections() { # CLIENTS: the option that bounds the connections
    if [[ -n $CONNECTIONS ]] && ((CONNECTIONS < $1)); then echo "--connections $CONNECTIONS"; fi
}

# ---- the parts

facts() {
    machine_facts
    echo "- three nodes and the load generator on one machine, values of $VALUE_SIZE bytes, ${CONNECTIONS:-as many connections as clients}${CONNECTIONS:+ connections at most}"
}

cell() { # WORKLOAD CLIENTS
    local run files=()
    for ((run = 1; run <= RUNS; run++)); do
        log "$1, $2 clients, run $run of $RUNS"
        files+=("$WORK/$1-$2-$run.json")
        # shellcheck disable=SC2046 # no option or two words
        bench "$WORK/$1-$2-$run.json" --workload "$1" --clients "$2" $(connections "$2") --keys "$KEYS" \
            --duration "$DURATION" --warmup "$WARMUP" --pids "$(pids)"
    done
    local kind rate p50 p99 p999 cpu own errors
    kind=".kinds[0].latency_us"
    rate=$(median_of .operations_per_second "${files[@]}")
    p50=$(median_of "$kind.p50" "${files[@]}")
    p99=$(median_of "$kind.p99" "${files[@]}")
    p999=$(median_of "$kind.p99_9" "${files[@]}")
    cpu=$(median_of .servers_cpu_us_per_operation "${files[@]}")
    own=$(median_of .client.cpu_us_per_operation "${files[@]}")
    errors=$(jq -s 'map(.errors.total) | add' "${files[@]}")
    awk -v w="$1" -v c="$2" -v r="$rate" -v a="$p50" -v b="$p99" -v d="$p999" -v s="$cpu" -v o="$own" -v e="$errors" \
        'BEGIN {printf "| %s | %d | %.0f | %.2f | %.2f | %.2f | %.1f | %.1f | %d |\n", w, c, r, a/1e3, b/1e3, d/1e3, s, o, e}'
}

matrix() {
    log "loading $KEYS keys"
    bench "$WORK/matrix-load.json" --workload load --clients 256 --keys "$KEYS" --timeout 60
    echo
    echo "### Throughput and latency ($KEYS keys, medians of $RUNS runs of $DURATION s)"
    echo
    echo "| work | clients | ops/s | p50 ms | p99 ms | p99.9 ms | servers' CPU µs/op | client's CPU µs/op | errors |"
    echo "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    local clients
    for clients in ${CLIENTS//,/ }; do cell put "$clients"; done
    cell get 256
    cell get-local 256
    cell mixed 256
    echo
    echo "The percentiles of \`mixed\` are those of its puts."
}

load() {
    log "loading $LOAD keys"
    bench "$WORK/load.json" --workload load --clients 256 --keys "$LOAD" --pids "$(pids)" --timeout 60 \
        --timeline "$WORK/load.csv"
    echo
    echo "### Load of $LOAD keys"
    echo
    echo "| keys/s | p99 ms | longest write gap ms | servers' CPU µs/op | errors |"
    echo "| ---: | ---: | ---: | ---: | ---: |"
    jq -r '[.operations_per_second, .kinds[0].latency_us.p99 / 1e3, .writes.longest_gap_ms, .servers_cpu_us_per_operation // 0, .errors.total] | @tsv' \
        "$WORK/load.json" | awk -F'\t' '{printf "| %.0f | %.2f | %.1f | %.1f | %d |\n", $1, $2, $3, $4, $5}'
    echo
    echo "| node | resident MiB before | at most | after | data MiB on disk |"
    echo "| ---: | ---: | ---: | ---: | ---: |"
    local id
    for id in 1 2 3; do
        jq -r --argjson pid "${PID[$id]}" '.servers[] | select(.pid == $pid) | [.resident_bytes_before, .resident_bytes_max, .resident_bytes_after] | @tsv' "$WORK/load.json" |
            awk -F'\t' -v id="$id" -v disk="$(du -sm "$WORK/node$id" | cut -f1)" \
                '{printf "| %d | %.0f | %.0f | %.0f | %d |\n", id, $1/1048576, $2/1048576, $3/1048576, disk}'
    done
}

restart() {
    echo
    echo "### Restart of one node until GET /ready answers 200 ($ROUNDS rounds)"
    echo
    echo "| signal | median ms | all ms |"
    echo "| --- | ---: | --- |"
    local signal round id began times
    for signal in KILL TERM; do
        times=()
        for ((round = 1; round <= ROUNDS; round++)); do
            id=$(((round - 1) % 3 + 1))
            log "restart of node $id after SIG$signal, round $round of $ROUNDS"
            stop_node "$id" "$signal"
            until_true 30 "another node leads" leader_known
            began=$(now_ms)
            start_node "$id"
            until_true 120 "node $id is ready" ready "$id"
            times+=($(($(now_ms) - began)))
            until_true 120 "node $id has caught up" caught_up "$id"
        done
        echo "| SIG$signal | $(printf '%s\n' "${times[@]}" | median) | ${times[*]} |"
    done
}

failover() {
    echo
    echo "### Kill -9 of the leader under load (64 writers, $ROUNDS rounds)"
    echo
    local round id gaps=() errors=0 file
    for ((round = 1; round <= ROUNDS; round++)); do
        file=$WORK/failover-$round.json
        until_true 30 "a node leads" leader_known
        log "failover, round $round of $ROUNDS"
        bench_start "$file" --workload failover --clients 64 --keys "$KEYS" --duration 12 --timeline "$WORK/failover-$round.csv"
        until_true 10 "writes flow" writes_flow
        sleep 2
        id=$(leader) || fail "no leader before the kill"
        stop_node "$id" KILL
        bench_wait
        gaps+=("$(jq .writes.longest_gap_ms "$file")")
        errors=$((errors + $(jq .errors.total "$file")))
        start_node "$id"
        until_true 120 "node $id is ready" ready "$id"
        until_true 120 "node $id has caught up" caught_up "$id"
    done
    echo "Longest time without an acknowledged write: median $(printf '%s\n' "${gaps[@]}" | median | xargs printf '%.0f') ms; all: $(printf '%.0f ' "${gaps[@]}")ms. Failed requests: $errors."
}

purged_past() { # INDEX: every live node has purged its log past it
    local id purged
    for id in "${!PID[@]}"; do
        purged=$(field "$id" purged_index)
        [[ -n $purged ]] && ((purged > $1)) || return 1
    done
}
sample_resident() { # ID FILE: until killed
    while resident_mib "$1" >>"$2" 2>/dev/null && echo >>"$2"; do sleep 0.1; done
}

snapshot() {
    local keys=$((SNAPSHOT_MIB * 1048576 / VALUE_SIZE)) id other before began stopped_at sampler file
    log "writing $SNAPSHOT_MIB MiB"
    bench "$WORK/snapshot-load.json" --workload load --clients 256 --keys "$keys" --timeout 60
    until_true 30 "a node leads" leader_known
    id=$(leader)
    echo
    echo "### Snapshots of $SNAPSHOT_MIB MiB of values under 64 writers"
    echo
    log "snapshot on the leader under load"
    file=$WORK/snapshot-put.json
    before=$(resident_mib "$id")
    bench_start "$file" --workload put --clients 64 --keys "$keys" --duration 15 --timeline "$WORK/snapshot-put.csv" --pids "${PID[$id]}"
    until_true 10 "writes flow" writes_flow
    sleep 3
    began=$(now_ms)
    call "$id" /v1/snapshot '' >/dev/null
    local build=$(($(now_ms) - began))
    bench_wait
    echo "- built on the leader in $build ms; longest write gap $(jq '.writes.longest_gap_ms | round' "$file") ms; leader's memory $before MiB before, $(jq '.servers[0].resident_bytes_max / 1048576 | round' "$file") MiB at most; failed requests $(jq .errors.total "$file")"

    other=$(a_follower)
    stopped_at=$(field "$other" last_log_index)
    log "node $other stops; writes and snapshots purge the log behind it"
    stop_node "$other" TERM
    until_true 30 "a node leads" leader_known
    bench "$WORK/snapshot-behind.json" --workload put --clients 64 --keys "$keys" --duration 5
    local live
    for live in "${!PID[@]}"; do call "$live" /v1/snapshot '' >/dev/null; done
    until_true 60 "the log is purged past $stopped_at" purged_past "$stopped_at"
    id=$(leader)
    log "node $other comes back by snapshot under load"
    file=$WORK/snapshot-install.json
    bench_start "$file" --workload put --clients 64 --keys "$keys" --duration 20 --timeline "$WORK/snapshot-install.csv" --pids "${PID[$id]}"
    until_true 10 "writes flow" writes_flow
    sleep 3
    began=$(now_ms)
    start_node "$other"
    sample_resident "$other" "$WORK/receiver.txt" &
    sampler=$!
    until_true 300 "node $other is ready" ready "$other"
    local install=$(($(now_ms) - began))
    bench_wait
    kill "$sampler" 2>/dev/null || true
    wait "$sampler" 2>/dev/null || true
    until_true 300 "node $other has caught up" caught_up "$other"
    echo "- installed on node $other, ready after $install ms; longest write gap $(jq '.writes.longest_gap_ms | round' "$file") ms; sender's memory $(jq '.servers[0].resident_bytes_before / 1048576 | round' "$file") MiB before, $(jq '.servers[0].resident_bytes_max / 1048576 | round' "$file") MiB at most; receiver's memory $(largest <"$WORK/receiver.txt") MiB at most, $(resident_mib "$other") MiB after; failed requests $(jq .errors.total "$file")"
}

begin_work
form_cluster
log "the cluster is formed"
echo "## Kvorum, three nodes"
echo
facts
for part in ${PARTS//,/ }; do "$part"; done
