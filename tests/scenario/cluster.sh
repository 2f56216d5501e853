#!/usr/bin/env bash
# The cluster scenario: three real processes, driven with curl from the first start
# to the recovery of a killed leader, in seven parts.
#
#   tests/scenario/cluster.sh BINARY
#
# It stops at the first wrong answer and shows the end of the log of the node that
# gave it. It waits for conditions, each with a deadline, and never for a time. It
# ends only the processes that it started. SCENARIO_RESULTS may name a file that
# gets a line for each part: verdict, seconds, name.
set -euo pipefail

BINARY=${1:?usage: cluster.sh BINARY}
BASE_PORT=${SCENARIO_BASE_PORT:-22100}
RESULTS=${SCENARIO_RESULTS:-/dev/null}
DEADLINE=${SCENARIO_DEADLINE_SECONDS:-30}

PARTS=(
    '1 three nodes start uninitialised'
    '2 node 1 becomes leader of itself'
    '3 nodes 2 and 3 join as learners'
    '4 all three become voters'
    '5 writes are seen on every node'
    '6 the leader is killed and the others go on'
    '7 the killed node recovers and agrees'
)

# Nothing from the caller's shell may configure the nodes.
for variable in "${!KVORUM_@}"; do unset "$variable"; done
unset RUST_LOG http_proxy HTTP_PROXY all_proxy ALL_PROXY

WORK=$(mktemp -d)
declare -A PIDS=()
STOPPING=''
part=-1
part_started=$SECONDS

# ---- reporting ----

say() {
    printf '%s\n' "$*" >&2
}

# The verdict on the parts so far is written as they end; the rest was not reached.
begin() {
    end_part
    part=$((part + 1))
    part_started=$SECONDS
    say "-- part ${PARTS[part]}"
}

end_part() {
    ((part < 0)) || printf 'ok\t%s\t%s\n' $((SECONDS - part_started)) "${PARTS[part]}" >>"$RESULTS"
}

# fail NODE|all MESSAGE...
fail() {
    local nodes=$1 node
    shift
    say "FAILED in part ${PARTS[part]}: $*"
    if [[ $nodes == all ]]; then nodes='1 2 3'; fi
    for node in $nodes; do
        if [[ -s $WORK/node$node.log ]]; then
            say "---- the end of the log of node $node"
            tail -n 40 "$WORK/node$node.log" >&2
        fi
    done
    exit 1
}

# shellcheck disable=SC2329  # called by the trap
clean_up() {
    local status=$? pid index
    trap - EXIT INT TERM
    for pid in "${PIDS[@]}" $STOPPING; do kill -9 "$pid" 2>/dev/null || true; done
    for pid in "${PIDS[@]}" $STOPPING; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$WORK"
    if ((status != 0)); then
        for ((index = part < 0 ? 0 : part; index < ${#PARTS[@]}; index++)); do
            printf 'FAILED\t%s\t%s%s\n' $((index == part ? SECONDS - part_started : 0)) "${PARTS[index]}" \
                "$( ((index == part)) || printf ' (not reached)')" >>"$RESULTS"
        done
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- nodes ----

addr() {
    printf '127.0.0.1:%d' $((BASE_PORT + $1))
}

start() {
    local node=$1
    "$BINARY" serve --id "$node" --http-addr "$(addr "$node")" --data-dir "$WORK/node$node" \
        >>"$WORK/node$node.log" 2>&1 </dev/null &
    PIDS[$node]=$!
}

# Waiting here keeps the shell from reporting the killed job.
kill_hard() {
    local node=$1
    kill -9 "${PIDS[$node]}"
    wait "${PIDS[$node]}" 2>/dev/null || true
    unset "PIDS[$node]"
}

has_ended() {
    ! kill -0 "$1" 2>/dev/null
}

# Asks a node to stop, and expects it to do so in order.
stop() {
    local node=$1 pid=${PIDS[$1]} status=0
    unset "PIDS[$node]"
    kill -TERM "$pid"
    STATUS='' BODY=''
    STOPPING=$pid
    until_true "$node" "node $node stops when asked to" has_ended "$pid"
    STOPPING=''
    wait "$pid" || status=$?
    ((status == 0)) || fail "$node" "node $node stopped with exit code $status instead of 0"
}

# call NODE METHOD PATH [BODY]: puts status and body into STATUS and BODY; no answer is status 000.
STATUS='' BODY=''
call() {
    local node=$1 method=$2 path=$3
    local arguments=(--silent --show-error --noproxy '*' --max-time 20 --request "$method"
        --write-out '\n%{http_code}' --header 'Content-Type: application/json')
    if (($# > 3)); then arguments+=(--data-binary "$4"); fi
    BODY=$(curl "${arguments[@]}" "http://$(addr "$node")$path" 2>&1) || true
    STATUS=${BODY##*$'\n'}
    BODY=${BODY%$'\n'*}
}

# ---- assertions ----

# expect NODE METHOD PATH BODY STATUS ANSWER MESSAGE; the body '-' is none.
expect() {
    local node=$1 method=$2 path=$3 body=$4 status=$5 answer=$6 message=$7
    if [[ $body == - ]]; then call "$node" "$method" "$path"; else call "$node" "$method" "$path" "$body"; fi
    [[ $STATUS == "$status" && $BODY == "$answer" ]] ||
        fail "$node" "$message: node $node answered $method $path $body with $STATUS $BODY instead of $status $answer"
}

# expect_error NODE METHOD PATH BODY STATUS CODE MESSAGE; the answer must have the form of every error.
expect_error() {
    local node=$1 method=$2 path=$3 body=$4 status=$5 code=$6 message=$7 form
    if [[ $body == - ]]; then call "$node" "$method" "$path"; else call "$node" "$method" "$path" "$body"; fi
    # shellcheck disable=SC2016  # jq's variable, not the shell's
    form='.error | (.code | test($code)) and (.message | type == "string" and length > 0) and (.details | type == "object")'
    if [[ $STATUS != "$status" ]] || ! jq -e --arg code "^($code)\$" "$form" <<<"$BODY" >/dev/null 2>&1; then
        fail "$node" "$message: node $node answered $method $path $body with $STATUS $BODY instead of error $status $code"
    fi
}

# until_true NODE|all MESSAGE COMMAND...: repeats the command until it succeeds.
until_true() {
    local nodes=$1 message=$2 end=$((SECONDS + DEADLINE)) node
    shift 2
    until "$@"; do
        for node in "${!PIDS[@]}"; do
            kill -0 "${PIDS[$node]}" 2>/dev/null || fail "$node" "$message: node $node has ended by itself"
        done
        ((SECONDS < end)) || fail "$nodes" "$message: not so after ${DEADLINE}s; the last answer was $STATUS $BODY"
        sleep 0.05
    done
}

# ---- conditions, each one look ----

answers() {
    call "$1" GET "$2"
    [[ $STATUS == 200 ]]
}

# metric NODE FILTER: the filter holds for the node's metrics.
metric() {
    call "$1" GET /metrics
    [[ $STATUS == 200 ]] && jq -e "$2" <<<"$BODY" >/dev/null 2>&1
}

leads() {
    metric "$1" ".state == \"Leader\" and .current_leader == $1"
}

# Every node given has the same leader, one of them; it is put into LEADER.
LEADER=''
agree_on_leader() {
    local node found='' one
    for node in "$@"; do
        call "$node" GET /metrics
        one=$(jq -r '.current_leader // empty' <<<"$BODY" 2>/dev/null) || return 1
        [[ -n $one && ${found:-$one} == "$one" ]] || return 1
        found=$one
    done
    [[ " $* " == *" $found "* ]] && leads "$found" && LEADER=$found
}

# Membership as the node has it is one set of voters, this one: no joint configuration is under way.
has_uniform_membership() {
    metric "$1" "[.membership | .. | objects | select(has(\"configs\")) | .configs][0] | map(sort) == [$2]"
}

all_have_uniform_membership() {
    local node
    for node in 1 2 3; do has_uniform_membership "$node" '[1,2,3]' || return 1; done
}

reads() {
    call "$1" POST /read "\"$2\""
    [[ $STATUS == 200 && $BODY == "\"$3\"" ]]
}

# Order of keys is not promised, so the objects are compared and not the text.
reads_all() {
    call "$1" GET /read-all
    [[ $STATUS == 200 ]] && jq -e --argjson expected "$2" '. == $expected' <<<"$BODY" >/dev/null 2>&1
}

# All three have applied the same log and have the same state.
states_agree() {
    local node states=''
    for node in 1 2 3; do
        call "$node" GET /v1/status
        states+=$(jq -c '[.last_log_index, .applied_index, .revision, .state_hash]' <<<"$BODY" 2>/dev/null)$'\n' || return 1
    done
    BODY=${states//$'\n'/ }
    [[ $states != *null* && $(sort -u <<<"${states%$'\n'}" | wc -l) == 1 ]] &&
        jq -e '.[0] == .[1]' <<<"${states%%$'\n'*}" >/dev/null
}

put() {
    expect "$1" POST /write "{\"Put\":{\"key\":\"$2\",\"value\":\"$3\"}}" 200 '"Ok"' "put $2"
}

delete() {
    expect "$1" POST /write "{\"Del\":{\"key\":\"$2\"}}" 200 '"Ok"' "delete $2"
}

# seen_by 'NODES' KEY VALUE
seen_by() {
    local node
    for node in $1; do until_true "$node" "node $node reads $2" reads "$node" "$2" "$3"; done
}

all_seen_by() {
    local node
    for node in $1; do until_true "$node" "node $node reads all keys" reads_all "$node" "$2"; done
}

# ---- before the first part ----

[[ -x $BINARY ]] || {
    say "there is no binary at $BINARY"
    exit 1
}
for command in curl jq; do
    command -v "$command" >/dev/null || {
        say "$command is not installed"
        exit 1
    }
done
for node in 1 2 3; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$((BASE_PORT + node))") 2>/dev/null; then
        say "something already listens on $(addr "$node"), which the scenario needs"
        exit 1
    fi
done

begin # 1
for node in 1 2 3; do start "$node"; done
for node in 1 2 3; do
    until_true "$node" "node $node is alive" answers "$node" /health
    metric "$node" ".id == $node and .current_leader == null and .state != \"Leader\"" ||
        fail "$node" "node $node starts without a leader: its metrics are $STATUS $BODY"
    expect_error "$node" POST /write '{"Put":{"key":"early","value":"x"}}' 503 'unavailable|not_leader' \
        'a write before /init is refused'
done
expect_error 1 POST /write '{"Put":{"key":' 400 invalid_request 'a malformed body is refused'
expect_error 1 POST /write '{"Get":{"key":"k"}}' 400 invalid_request 'an unknown command is refused'
expect_error 1 GET /no/such/path - 404 not_found 'an unknown path is refused'
expect_error 1 GET /write - 405 method_not_allowed 'a wrong method is refused'

begin # 2
expect 1 POST /init '[]' 200 '"Ok"' 'node 1 is initialised'
until_true 1 'node 1 leads' leads 1
expect_error 1 POST /init '[]' 409 already_initialized 'a second /init is refused'
put 1 first one
expect 1 POST /read '"first"' 200 '"one"' 'a cluster of one reads what it wrote'

begin # 3
for node in 2 3; do
    expect 1 POST /add-learner "[$node,\"$(addr "$node")\"]" 200 '"Ok"' "node $node is added as a learner"
    until_true "$node" "node $node knows the leader" metric "$node" '.state == "Learner" and .current_leader == 1'
done
has_uniform_membership 1 '[1]' || fail 1 "learners do not vote: the metrics are $BODY"
seen_by '2 3' first one

begin # 4
expect 1 POST /change-membership '[1,2,3]' 200 '"Ok"' 'all three become voters'
until_true all 'the membership is uniform everywhere' all_have_uniform_membership
until_true all 'all nodes agree on a leader' agree_on_leader 1 2 3

begin # 5
put "$LEADER" foo bar
put "$LEADER" other 'with \"quotes\" and ünïcode'
put "$LEADER" empty ''
seen_by '1 2 3' foo bar
seen_by '1 2 3' other 'with \"quotes\" and ünïcode'
seen_by '1 2 3' no-such-key ''
for node in 1 2 3; do
    put "$node" "through-$node" "value-$node"
    seen_by '1 2 3' "through-$node" "value-$node"
done
put "$LEADER" foo changed
put "$LEADER" doomed soon-gone
all_seen_by '1 2 3' '{"doomed":"soon-gone","empty":"","first":"one","foo":"changed",
    "other":"with \"quotes\" and ünïcode","through-1":"value-1","through-2":"value-2","through-3":"value-3"}'

begin # 6
victim=$LEADER
survivors=()
for node in 1 2 3; do [[ $node == "$victim" ]] || survivors+=("$node"); done
kill_hard "$victim"
until_true all 'the survivors elect a new leader' agree_on_leader "${survivors[@]}"
for key in a b c d e; do put "$LEADER" "away-$key" "$key"; done
for node in "${survivors[@]}"; do put "$node" "away-through-$node" yes; done
put "$LEADER" foo changed-again
delete "$LEADER" doomed
delete "$LEADER" away-e
away='"away-a":"a","away-b":"b","away-c":"c","away-d":"d"'
for node in "${survivors[@]}"; do away+=",\"away-through-$node\":\"yes\""; done
kept="\"empty\":\"\",\"foo\":\"changed-again\",\"other\":\"with \\\"quotes\\\" and ünïcode\",$away,
    \"through-1\":\"value-1\",\"through-2\":\"value-2\",\"through-3\":\"value-3\""
all_seen_by "${survivors[*]}" "{\"first\":\"one\",$kept}"

begin # 7
start "$victim"
until_true "$victim" "node $victim is alive again" answers "$victim" /health
until_true all 'all nodes agree on a leader' agree_on_leader 1 2 3
all_seen_by '1 2 3' "{\"first\":\"one\",$kept}"
put "$victim" back yes
delete "$LEADER" first
seen_by '1 2 3' back yes
seen_by '1 2 3' first ''
seen_by '1 2 3' doomed ''
all_seen_by '1 2 3' "{\"back\":\"yes\",$kept}"
until_true all 'all nodes have the same state' states_agree
for node in "${survivors[@]}" "$victim"; do stop "$node"; done
end_part
say '-- the scenario holds'
