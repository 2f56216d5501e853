# shellcheck shell=bash
# What run.sh and etcd.sh share: most of their options, a cluster of Kvorum on this
# machine, the load generator, waiting, and figures. Sourced, never run.
#
# The sourcing script sets its defaults, says what it takes in `usage`, and defines
# `own_option` and `endpoints`. Nothing here waits for a time where it can wait for a
# condition. Only processes started here are ended.

# A thousand clients and their servers need more files than the usual limit.
ulimit -n "$(ulimit -Hn)"

# All servers are on loopback, which no proxy reaches.
unset http_proxy all_proxy ALL_PROXY

# ---- options

refuse() {
    echo "$*" >&2
    exit 2
}

# read_options ARGUMENTS...: what both scripts take is set here. The rest is given to
# `own_option NAME VALUE`, which fails when there is no such option.
# shellcheck disable=SC2034  # read by the scripts that source this file
read_options() {
    local option tool
    while (($#)); do
        option=$1
        shift
        case $option in
            --keep) KEEP=1; continue ;;
            -h | --help) usage; exit 0 ;;
        esac
        (($#)) || { usage >&2; exit 2; }
        case $option in
            --binary) BINARY=$1 ;;
            --bench) BENCH=$1 ;;
            --parts) PARTS=$1 ;;
            --runs) RUNS=$1 ;;
            --duration) DURATION=$1 ;;
            --warmup) WARMUP=$1 ;;
            --clients) CLIENTS=$1 ;;
            --connections) CONNECTIONS=$1 ;;
            --keys) KEYS=$1 ;;
            --value-size) VALUE_SIZE=$1 ;;
            --base-port) BASE_PORT=$1 ;;
            --dir) DIR=$1 ;;
            *) own_option "$option" "$1" || { echo "unknown option $option" >&2; usage >&2; exit 2; } ;;
        esac
        shift
    done
    [[ -x $BINARY ]] || refuse "--binary must name the kvorum binary"
    for tool in curl jq awk; do
        command -v "$tool" >/dev/null || refuse "$tool is needed"
    done
    if [[ -n $BENCH ]]; then COMMAND=("$BENCH"); else COMMAND=("$BINARY" bench); fi
}

# only_parts NAME...: refuses any other part.
only_parts() {
    local part
    for part in ${PARTS//,/ }; do
        [[ " $* " == *" $part "* ]] || refuse "unknown part $part"
    done
}

# ---- what is started here, and its end

# The processes of the nodes, by number.
declare -A PID=()
# The first of three ports for gRPC; without it the nodes serve HTTP alone.
GRPC_PORT=''

log() { echo "$*" >&2; }
fail() {
    local file
    log "FAILED: $*"
    for file in "$NODES"/node*.log; do
        [[ ! -s $file ]] || { log "--- $(basename "$file"), last lines"; tail -n 20 "$file" >&2; }
    done
    exit 1
}

# A load generator that runs beside the script.
BACKGROUND=''
cleanup() {
    trap - EXIT INT TERM
    [[ -z $BACKGROUND ]] || kill "$BACKGROUND" 2>/dev/null || true
    for id in "${!PID[@]}"; do kill -KILL "${PID[$id]}" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [[ -n $KEEP ]]; then log "kept: $WORK"; else rm -rf "$WORK"; fi
}

# Makes the folder for all files; it goes, with all processes, when the script ends.
begin_work() {
    WORK=$(mktemp -d "$DIR/kvorum-bench.XXXXXX")
    # Where the nodes keep their data and logs.
    NODES=$WORK
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    log "working in $WORK"
}

# ---- waiting

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }

# until_true SECONDS WHAT COMMAND...: polls until the command succeeds.
until_true() {
    local deadline=$(($(now_ms) + $1 * 1000)) what=$2
    shift 2
    until "$@"; do
        (($(now_ms) < deadline)) || fail "waited too long until $what"
        sleep 0.02
    done
}

# ---- a cluster of Kvorum

http() { echo "127.0.0.1:$((BASE_PORT + $1 - 1))"; }

start_node() {
    local options=(--id "$1" --http-addr "$(http "$1")" --data-dir "$NODES/node$1")
    [[ -z $GRPC_PORT ]] || options+=(--grpc-addr "127.0.0.1:$((GRPC_PORT + $1 - 1))")
    "$BINARY" serve "${options[@]}" >>"$NODES/node$1.log" 2>&1 &
    PID[$1]=$!
}
stop_node() { # ID SIGNAL
    kill "-$2" "${PID[$1]}" 2>/dev/null || true
    wait "${PID[$1]}" 2>/dev/null || true
    unset "PID[$1]"
}

alive() { curl -fsS -m 2 -o /dev/null "http://$(http "$1")/health" 2>/dev/null; }
ready() { curl -fsS -m 2 -o /dev/null "http://$(http "$1")/ready" 2>/dev/null; }
status() { curl -fsS -m 5 "http://$(http "$1")/v1/status"; }
field() { status "$1" 2>/dev/null | jq -r ".$2 // empty"; }
call() { # ID PATH BODY
    curl -fsS -m 60 -H 'Content-Type: application/json' -d "$3" "http://$(http "$1")$2" || fail "$2 on node $1"
}

leader() {
    local id
    for id in "${!PID[@]}"; do
        [[ $(field "$id" role) != leader ]] || { echo "$id"; return; }
    done
    return 1
}
leader_known() { leader >/dev/null; }
a_follower() {
    local id leads
    leads=$(leader)
    for id in 1 2 3; do [[ $id == "$leads" ]] || { echo "$id"; return; }; done
}
caught_up() { # ID: it has applied all that the leader has committed
    local leads committed applied
    leads=$(leader) && committed=$(field "$leads" committed_index) && applied=$(field "$1" applied_index)
    [[ -n $committed && -n $applied ]] && ((applied >= committed))
}

form_cluster() {
    local id
    for id in 1 2 3; do start_node "$id"; done
    for id in 1 2 3; do until_true 30 "node $id answers" alive "$id"; done
    call 1 /init '[]' >/dev/null
    until_true 30 "node 1 leads" leader_known
    for id in 2 3; do call 1 /add-learner "[$id,\"$(http "$id")\"]" >/dev/null; done
    call 1 /change-membership '[1,2,3]' >/dev/null
    for id in 1 2 3; do until_true 30 "node $id is ready" ready "$id"; done
}

# ---- the load generator

pids() { local IFS=,; echo "${PID[*]}"; }

# bench_start FILE ARGUMENTS...: begins a run whose JSON goes to FILE.
bench_start() {
    local out=$1
    shift
    "${COMMAND[@]}" "$@" -o json --endpoints "$(endpoints)" >"$out" 2>"$WORK/bench.log" &
    BACKGROUND=$!
}
bench_wait() {
    local code=0
    wait "$BACKGROUND" || code=$?
    BACKGROUND=
    ((code == 0)) || { tail -n 5 "$WORK/bench.log" >&2; fail "the load generator ended with $code"; }
}
bench() {
    bench_start "$@"
    bench_wait
}

# ---- figures

median() { sort -g | awk '{v[NR]=$1} END {if (NR == 0) print "-"; else if (NR % 2) print v[(NR+1)/2]; else print (v[NR/2]+v[NR/2+1])/2}'; }
median_of() { # JQ-PATH FILES...
    local path=$1
    shift
    jq -r "$path // empty" "$@" | median
}
resident_mib() { awk '/^VmRSS:/ {printf "%d", $2 / 1024}' "/proc/${PID[$1]}/status"; }
largest() { sort -g | tail -n 1; }

machine_facts() {
    local disk
    disk=$(df --output=source,fstype "$WORK" | awk 'NR == 2 {print $1 ", " $2}')
    echo "- $(date -u +%F), $("$BINARY" --version 2>/dev/null || echo kvorum)"
    echo "- $(nproc) cores ($(awk -F': ' '/^model name/ {print $2; exit}' /proc/cpuinfo)), $(awk '/^MemTotal/ {printf "%.1f", $2 / 1048576}' /proc/meminfo) GiB of memory, kernel $(uname -r), $(uname -m)"
    echo "- data on $disk"
}
