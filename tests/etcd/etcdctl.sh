#!/usr/bin/env bash
# Drives etcdctl through every call it has, and writes down what it answered.
#
#   tests/etcd/etcdctl.sh ENDPOINTS TRANSCRIPT
#
# ENDPOINTS are the client endpoints of one fresh cluster, separated by commas. The
# transcript holds each call, its output, its errors and its exit code, with what
# differs between two equal clusters taken out: ids, terms, ports, sizes, times, and
# revisions, which are counted from the start of each section. Two servers that are
# alike give equal transcripts.
#
# A failure does not end the script: it is part of the transcript.
#
# ETCDCTL names the program (default: etcdctl). RESTORE_ETCD, when set, names an etcd
# that is started on the restored snapshot, with the port RESTORE_PORT and the next.
# LONG=1 adds `check perf`, which takes a minute.
set -euo pipefail

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ENDPOINTS=${1:?usage: etcdctl.sh ENDPOINTS TRANSCRIPT}
TRANSCRIPT=${2:?usage: etcdctl.sh ENDPOINTS TRANSCRIPT}
ETCDCTL=${ETCDCTL:-etcdctl}
DEADLINE=${ETCD_DEADLINE_SECONDS:-10}
ONE=${ENDPOINTS%%,*}
BASE=0

: >"$TRANSCRIPT"

# ---- calls ----

ctl() {
    "$ETCDCTL" --endpoints "$ENDPOINTS" --command-timeout 10s "$@"
}

# Takes out of standard input what may differ between two equal clusters.
normalise() {
    BASE=$BASE WORK=$ETCD_WORK perl -pe '
        BEGIN {
            $base = $ENV{BASE};
            $revision = sub { my $at = shift; $at <= 1 ? $at : "R" . ($at >= $base ? "+" : "") . ($at - $base) };
            $size = sub { $_[0] == 0 ? 0 : "SIZE" };
        }
        s/\Q$ENV{WORK}\E/WORK/g;
        # Of what the client logs only the failure is of interest.
        s/^\{"level":"(\w+)".*"msg":"([^"]*)".*"error":"(.*)"\}$/client $1: $2: $3/;
        s/^\{"level":"(\w+)".*"msg":"([^"]*)".*\}$/client $1: $2/;
        s/("(?:cluster_id|member_id|leader)":)\d+/$1ID/g;
        s/("(?:ClusterID|MemberID|Leader)" : )\d+/$1ID/g;
        s/("(?:raft_term|raftTerm|raftIndex|raftAppliedIndex)":)\d+/$1N/g;
        s/("(?:RaftTerm|RaftIndex|RaftAppliedIndex)" : )\d+/$1N/g;
        s/("(?:revision|mod_revision|create_revision|compact_revision|CompactRevision)":)(\d+)/$1 . $revision->($2)/ge;
        s/("(?:Revision|ModRevision|CreateRevision|CompactRevision)" : )(\d+)/$1 . $revision->($2)/ge;
        s/(compacted revision |--rev |compaction )(\d+)/$1 . $revision->($2)/ge;
        s/((?:create|mod)\("[^"]*"\) . ")(\d+)/$1 . $revision->($2)/ge;
        s/("(?:dbSize|dbSizeInUse|totalSize|totalKey|hash)":)(\d+)/$1 . $size->($2)/ge;
        s/("(?:DBSize|Size|TotalSize|Hash)" : )(\d+)/$1 . $size->($2)/ge;
        s/("(?:lease|Lease|ID|memberID|id)":)[1-9]\d*/$1ID/g;
        s/("(?:Lease|ID)" : )[1-9]\d*/$1ID/g;
        s/"version":"[^"]*"/"version":"V"/g;
        s/("ttl":)\d+/$1SECONDS/g;
        s/("TTL" : )\d+/$1SECONDS/g;
        # Ids of members may be small numbers.
        s/^((?:member (?:promote|remove|update)|move-leader) )[0-9a-f]{1,16}(?= |$)/$1HEX/;
        s/^(Leadership transferred from )[0-9a-f]{1,16} to [0-9a-f]{1,16}$/$1HEX to HEX/;
        s/^(Member) +[0-9a-f]{1,16}(?= )/$1 HEX/;
        s/^(127\.0\.0\.1:\d+, )\d+$/$1HASH/;
        s/("name":)"[^"]*"/$1"NAME"/g if /"peerURLs"/;
        s/ *\b[0-9a-f]{13,16}\b/ HEX/g;
        # Which of the two is said depends on whether a second has passed.
        s/member ID already exist|Peer URLs already exists/member or URL exists/g;
        s/remaining\(\d+s\)/remaining(SECONDS)/g;
        # The order of these is that of a hash map.
        s/(attached keys\(\[)([^\]]*)/$1 . join(" ", sort split(" ", $2))/ge;
        s/("keys":\[)([^\]]*)/$1 . join(",", sort split(",", $2))/ge;
        s/("members":\[)(.*)(\]\})/$1 . join(",", sort($2 =~ m{\{[^{}]*\}}g)) . $3/ge;
        s/took = ?[\d.]+(?:ns|µs|ms|s)/took TIME/g;
        s/\(took [^)]*\)/(took TIME)/g;
        s/"took":"[^"]*"/"took":"TIME"/g;
        s/127\.0\.0\.1:\d+/HOST/g;
        s/0x[0-9a-f]{6,}/POINTER/g;
        s/endpoint:\/\/client-[0-9a-f-]+/CLIENT/g;
    '
}

write() {
    printf '%s\n' "$@" >>"$TRANSCRIPT"
}

# section NAME: revisions are counted from the store's revision here.
section() {
    BASE=$(revision)
    write '' "== $1"
}

# Prints the store's revision.
revision() {
    ctl get no-such-key -w json | jq .header.revision
}

# Writes down an ended call: record CODE STDOUT STDERR
record() {
    if grep -q '^NAME:$' "$2"; then
        write '(help)'
    else
        normalise <"$2" >>"$TRANSCRIPT"
    fi
    normalise <"$3" | sed 's/^/! /' >>"$TRANSCRIPT"
    (($1 == 0)) || write "exit $1"
}

# t ARGUMENTS...: calls etcdctl and writes the call and its answer down.
t() {
    local code=0
    write "$ $(printf '%q ' "$@" | normalise | sed 's/ $//')"
    ctl "$@" >"$ETCD_WORK/out" 2>"$ETCD_WORK/err" </dev/null || code=$?
    record "$code" "$ETCD_WORK/out" "$ETCD_WORK/err"
}

# t_in INPUT ARGUMENTS...: the same with a standard input, which is written down too.
t_in() {
    local code=0 input=$1
    shift
    write "$ $(printf '%q ' "$@" | sed 's/ $//') <<"
    printf '%s\n' "$input" | normalise | sed -n '1,20s/^/< /p' >>"$TRANSCRIPT"
    printf '%s\n' "$input" | ctl "$@" >"$ETCD_WORK/out" 2>"$ETCD_WORK/err" || code=$?
    record "$code" "$ETCD_WORK/out" "$ETCD_WORK/err"
}

# at ENDPOINTS COMMAND...: runs a function of these with other endpoints.
at() {
    local ENDPOINTS=$1
    shift
    "$@"
}

# quiet ARGUMENTS...: prepares; only a failure is written down.
quiet() {
    local said
    said=$(ctl "$@" 2>&1) || write "failed: $* : $(normalise <<<"$said")"
}

# await MESSAGE COMMAND...: one that does not come true is written down, so that one
# difference does not hide the others.
await() {
    until_true "$@" || write "not so after ${DEADLINE}s: $1"
}

# new_lease TTL: prints the id of a new lease.
new_lease() {
    ctl lease grant "$1" | sed -E 's/^lease ([0-9a-f]+) granted.*/\1/'
}

# ---- calls that stay ----

declare -A BACKGROUND=()

# background NAME ARGUMENTS...: the output goes to files of that name. INPUT may name a
# file for the standard input.
background() {
    local name=$1
    shift
    : >"$ETCD_WORK/$name.out"
    # Not through the function: the id must be etcdctl's own, to end it by.
    "$ETCDCTL" --endpoints "$ENDPOINTS" --command-timeout 10s "$@" \
        >"$ETCD_WORK/$name.out" 2>"$ETCD_WORK/$name.err" <"${INPUT:-/dev/null}" &
    BACKGROUND[$name]=$!
    PIDS+=($!)
}

has_lines() {
    (($(wc -l <"$ETCD_WORK/$1.out") >= $2))
}

has_keys() {
    (($(ctl get "$1" --prefix --keys-only --print-value-only=false | grep -c .) >= $2))
}

has_ended() {
    ! kill -0 "${BACKGROUND[$1]}" 2>/dev/null
}

# keep NAME FILTER...: puts what a background call has said through a filter.
keep() {
    local name=$1
    shift
    "$@" <"$ETCD_WORK/$name.out" >"$ETCD_WORK/kept" || true
    cp "$ETCD_WORK/kept" "$ETCD_WORK/$name.out"
}

# finish NAME: writes down what a background call said, after it has ended or is ended.
finish() {
    local name=$1 pid=${BACKGROUND[$1]}
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    forget "$pid"
    unset "BACKGROUND[$name]"
    write "$ background: $name"
    normalise <"$ETCD_WORK/$name.out" >>"$TRANSCRIPT"
    normalise <"$ETCD_WORK/$name.err" | sed 's/^/! /' >>"$TRANSCRIPT"
}

# ---- sections ----

key_values() {
    section 'put and get'
    t get nothing
    t put k1 v1
    t put k2 v2
    t put k3 ''
    t put k1 v1-again
    t put 'key with spaces' 'value with "quotes", ünïcode and a	tab'
    t_in 'a value from standard input' put from-stdin
    t get k1
    t get k1 -w json
    t get k1 -w fields
    t get k1 --hex
    t get k1 --print-value-only
    t get k1 --keys-only
    t get k1 --consistency s
    t get k --prefix
    t get k --prefix --keys-only
    t get k --prefix --limit 2 -w json
    t get k1 k3
    t get k3 k1
    t get k2 --from-key --limit 3
    t get '' --prefix --keys-only
    t get '' --from-key --keys-only
    t get k1 --rev $((BASE + 1))
    t get k --prefix --rev $((BASE + 2)) -w json
    t get k1 --rev $((BASE + 100))
    t get k1 --rev -1
    t get k1 k2 --prefix
    t get

    section 'sort'
    quiet put s/a 3
    quiet put s/b 1
    quiet put s/c 2
    quiet put s/b 1
    quiet put s/a 0
    quiet put s/a 3
    for by in CREATE KEY MODIFY VALUE VERSION; do
        for order in ASCEND DESCEND; do t get s/ --prefix --sort-by "$by" --order "$order"; done
        t get s/ --prefix --sort-by "$by" --order DESCEND --limit 1 --keys-only
    done
    t get s/ --prefix --order DESCEND
    t get s/ --prefix --sort-by nothing
    t get s/ --prefix --sort-by KEY --order sideways

    section 'put options'
    local lease
    t put o/1 first --prev-kv
    t put o/1 second --prev-kv
    t put o/1 third --prev-kv -w json
    t put o/1 --ignore-value
    t get o/1 -w json
    t put o/none --ignore-value
    t put o/none x --ignore-lease
    t put o/1 x --ignore-value
    t put o/1 x --lease 123456
    t put '' x
    t put o/1 x -w fields
    lease=$(new_lease 600)
    t put o/leased x --lease "$lease"
    t put o/leased y --ignore-lease
    t get o/leased -w json
    t put o/leased z
    t get o/leased -w json
    quiet lease revoke "$lease"

    section 'del'
    for key in d/1 d/2 d/3 d/4 d/5 e/1 zz/1 zz/2; do quiet put "$key" "of $key"; done
    t del d/nothing
    t del d/1
    t del d/1
    t del d/2 --prev-kv
    t del d/3 d/5
    t del d/ --prefix --prev-kv -w json
    t del d/ --prefix
    t del zz/2 zz/1
    t del zz/ --from-key --prev-kv
    t del ''
    t del
    t get d/ --prefix --rev $((BASE + 8)) --keys-only
}

transactions() {
    section 'txn'
    quiet put t/1 one
    quiet put t/2 two
    t_in $'value("t/1") = "one"\n\nput t/1 uno\nget t/1\n\nget t/2\n' txn -i
    t_in $'value("t/1") = "one"\n\nput t/1 uno\n\nget t/1\nget t/ --prefix\n' txn -i
    t_in $'value("t/1") > "a"\nvalue("t/2") < "z"\n\nput t/both yes\n\n\n' txn
    t_in $'value("t/missing") != "x"\n\nput t/wrong yes\n\nput t/missing-value-never-holds yes\n' txn
    t_in $'version("t/missing") = "0"\ncreate("t/missing") = "0"\n\nput t/created yes\n\n\n' txn
    t_in $'version("t/1") = "2"\n\nput t/version yes\n\n\n' txn -w json
    t_in $'version("t/1") > "2"\n\n\nput t/version no\n' txn -w json
    t_in "create(\"t/1\") = \"$((BASE + 1))\""$'\n\nget t/1\n\n\n' txn
    t_in "mod(\"t/1\") < \"$((BASE + 2))\""$'\n\n\nget t/1\n' txn
    # A comparison of leases makes these clients panic; the differential test has it.
    t_in $'\n\nput t/unconditional yes\ndel t/both --prev-kv\nget t/both\n\n\n' txn -w fields
    t_in $'\nput t/late yes\n\n\n' txn
    t_in $'\nput t/twice 1\nput t/twice 2\n\n\n' txn
    t_in $'\nput t/deleted 1\ndel t/ --prefix\n\n\n' txn
    t_in $'\ndel t/ --prefix\nput u/1 after\nget t/ --prefix\n\n\n' txn
    t_in $'nonsense("t/1") = "1"\n\nget t/1\n\n\n' txn
    t_in $'\nput "" x\n\n\n' txn
    t_in $'\n'"$(printf 'put many/%s x\n' {1..128})"$'\n\n\n' txn -w json
    t_in $'\n'"$(printf 'put more/%s x\n' {1..129})"$'\n\n\n' txn
    t get more/ --prefix
}

watches() {
    section 'watch'
    quiet put w/1 before
    quiet put w/1 changed
    quiet put w/2 other
    quiet del w/1
    quiet put v/1 elsewhere
    background key watch w/1 --rev $((BASE + 1))
    background prefix watch w/ --prefix --rev $((BASE + 1)) -w json
    background previous watch w/ --prefix --prev-kv --rev $((BASE + 2))
    background fields watch w/1 --rev $((BASE + 1)) -w fields
    background range watch w/1 w/2 --rev $((BASE + 1))
    # etcdctl has no way to watch from a key on, so the range ends with a zero byte.
    background everything watch '' --prefix --rev $((BASE + 1))
    await 'watch: the history of a key' has_lines key 9
    await 'watch: the history with fields' has_line fields DELETE
    quiet put w/1 back
    await 'watch: a key' has_lines key 12
    await 'watch: a prefix' has_line prefix "$(printf back | base64)"
    await 'watch: with previous values' has_lines previous 16
    await 'watch: fields' has_line fields '"back"'
    await 'watch: a range' has_lines range 12
    await 'watch: everything' has_lines everything 18
    quiet put w/end end
    await 'watch: the last change of a prefix' has_line prefix "$(printf w/end | base64)"
    for name in key previous range everything; do finish "$name"; done
    # Where history is cut into messages is the server's affair; what they hold is not.
    keep prefix jq -c '.Events[]'
    finish prefix
    keep fields grep -v -e '"ClusterID"' -e '"MemberID"' -e '"Revision"' -e '"RaftTerm"'
    finish fields

    write '$ a watch from a later revision'
    background later watch w/ --prefix --rev "$(($(revision) + 2))"
    quiet put w/later 1
    quiet put w/later 2
    await 'watch: from a later revision' has_lines later 3
    finish later

    write '$ a watch without a revision sees what comes'
    background fresh watch fresh/ --prefix
    await 'watch: without a revision' sees_a_put fresh
    quiet put fresh/key value
    quiet del fresh/key
    await 'watch: without a revision, the delete' has_line fresh DELETE
    keep fresh grep -v -e '^fresh/ready$' -e '^PUT$' -e '^ready$'
    finish fresh

    section 'watch: several in one stream'
    # The input stays open until this script closes it or ends.
    mkfifo "$ETCD_WORK/interactive.in"
    INPUT=$ETCD_WORK/interactive.in background interactive watch -i
    exec {input}<>"$ETCD_WORK/interactive.in"
    printf 'watch i/1\nwatch i/2 --rev %s\nwatch i/ --prefix --prev-kv --rev %s\nprogress\nnonsense\n' \
        $((BASE + 1)) $((BASE + 1)) >&"$input"
    quiet put i/2 two
    quiet put i/2 two-again
    quiet del i/2
    # Two watchers of one client answer in either order.
    await 'watch: interactive' has_lines_of_events interactive 22
    exec {input}>&-
    await 'watch: interactive, the end of the input' has_ended interactive
    # When progress is told, and to how many of the watchers, is a matter of time.
    keep interactive sed '/^progress notify/d'
    keep interactive sort
    finish interactive

    section 'watch: runs a command'
    quiet put x/1 one
    # shellcheck disable=SC2016  # the watched command's variables
    background command watch x/1 --rev $((BASE + 1)) -- sh -c 'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"'
    await 'watch: runs a command' has_line command '"x/1" "one"'
    finish command
}

has_line() {
    grep -qF -- "$2" "$ETCD_WORK/$1.out"
}

sees_a_put() {
    quiet put "$1/ready" ready
    has_lines "$1" 1
}

has_lines_of_events() {
    (($(grep -vc '^progress notify' "$ETCD_WORK/$1.out") >= $2)) && has_line "$1" 'progress notify'
}

leases() {
    local lease
    section 'lease'
    t lease list
    t lease grant 600
    t lease grant 600 -w json
    t lease list
    lease=$(new_lease 500)
    quiet put l/1 one --lease "$lease"
    quiet put l/2 two --lease "$lease"
    t lease timetolive "$lease"
    t lease timetolive "$lease" --keys
    t lease timetolive "$lease" --keys -w json
    t lease timetolive "$lease" -w fields
    t lease keep-alive --once "$lease"
    t lease keep-alive --once "$lease" -w json
    t lease revoke "$lease"
    t get l/ --prefix
    t lease revoke "$lease"
    t lease timetolive "$lease"
    t lease timetolive "$lease" --keys -w json
    t lease keep-alive --once "$lease"
    t lease grant 0
    t lease grant -- -1
    t lease grant x
    t lease grant 9000000001
    t lease revoke nonsense

    write '$ a lease that runs out takes its keys along, in one revision'
    lease=$(new_lease 1)
    background expiry watch l/ --prefix --rev $(($(revision) + 1))
    quiet put l/b x --lease "$lease"
    quiet put l/a x --lease "$lease"
    await 'lease: the keys of an expired lease are deleted' has_no_keys l/
    await 'lease: the deletes are seen' has_lines expiry 12
    finish expiry
    t lease timetolive "$lease"
    for lease in $(ctl lease list | sed 1d); do quiet lease revoke "$lease"; done
    t lease list -w json
}

has_no_keys() {
    ! ctl get "$1" --prefix --keys-only | grep -q .
}

locks() {
    section 'lock'
    t lock lock/quick --ttl 5 echo the lock is held
    # shellcheck disable=SC2016  # the command's variables
    t lock lock/env -- sh -c 'echo "$ETCD_LOCK_KEY" "$ETCD_LOCK_REV" | grep -c lock/env/'
    t lock lock/failing -- sh -c 'exit 3'
    # It waits no longer than etcdctl, which perhaps is killed.
    background first lock lock/shared -- sh -c \
        "echo first; until [ -e '$ETCD_WORK/release' ] || ! kill -0 \$PPID; do sleep 0.05; done; echo first ends"
    await 'lock: the first holds it' has_lines first 1
    background second lock lock/shared -- sh -c 'echo second'
    await 'lock: the second waits' has_keys lock/shared 2
    has_lines second 1 && write 'both hold the lock'
    touch "$ETCD_WORK/release"
    await 'lock: the first has ended' has_ended first
    await 'lock: the second has ended' has_ended second
    finish first
    finish second
    t get lock/ --prefix

    section 'elect'
    background leader elect vote/a candidate-1
    await 'elect: the first leads' has_lines leader 2
    background follower elect vote/a candidate-2
    await 'elect: the second stands' has_keys vote/a 2
    background listener elect vote/a --listen
    await 'elect: a listener hears the leader' has_lines listener 2
    # Interrupted, the leader resigns.
    kill -TERM "${BACKGROUND[leader]}"
    await 'elect: the second leads' has_lines follower 2
    await 'elect: a listener hears the change' has_lines listener 4
    kill -TERM "${BACKGROUND[follower]}"
    await 'elect: nobody stands any more' has_no_keys vote/
    await 'elect: the first has ended' has_ended leader
    await 'elect: the second has ended' has_ended follower
    for name in leader follower listener; do finish "$name"; done
}

compactions() {
    local at
    section 'compaction'
    for value in 1 2 3 4 5; do quiet put c/1 "$value"; done
    quiet del c/1
    quiet put c/2 kept
    at=$((BASE + 3))
    t compaction "$at"
    t compaction "$at"
    t compaction $((BASE + 2))
    t compaction $((BASE + 1000))
    t compaction
    t compaction x
    t get c/1 --rev "$at"
    t get c/1 --rev $((at - 1))
    t get c/1 --rev 1
    t get c/ --prefix --rev $((at + 1))
    # Started below the compacted revision it is cancelled, at it it is served.
    t watch c/1 --rev $((at - 1))
    background from-compacted watch c/1 --rev "$at"
    await 'watch: from the compacted revision' has_line from-compacted DELETE
    finish from-compacted
    t compaction $((BASE + 6)) --physical
    t get c/1 --rev $((BASE + 6))
    t get c/2 --rev $((BASE + 7))
}

# statuses: each endpoint's, as one JSON array. Ids become text, for which jq has no
# numbers large enough.
statuses() {
    ctl endpoint status -w json | sed -E 's/("(leader|member_id|cluster_id)":)([0-9]+)/\1"\3"/g'
}

hexadecimal() {
    perl -e 'printf "%x\n", shift' "$1"
}

endpoints_agree() {
    [[ $(ctl endpoint hashkv -w json | jq -c '[.[] | [.HashKV.hash, .HashKV.compact_revision, .HashKV.header.revision]] | unique | length') == 1 ]]
}

clusters() {
    local leader other target id
    section 'members'
    t member list -w json
    write "$(ctl member list | sed -E 's/^[0-9a-f]+/ID/; s/127\.0\.0\.1:[0-9]+/HOST/g; s/, [^,]+, http/, NAME, http/' | sort -u)"
    t member promote 1234567890abcdef
    t member remove 1234567890abcdef
    t member update 1234567890abcdef --peer-urls http://127.0.0.1:1
    t member promote nonsense
    t member remove
    id=$(ctl member list | sed -n '1s/,.*//p')
    t member promote "$id"

    section 'membership changes'
    # A learner that never comes changes nothing for the others.
    ctl member add late --learner --peer-urls http://127.0.0.1:9 >"$ETCD_WORK/out" 2>"$ETCD_WORK/err" || true
    write '$ member add late --learner'
    sed -n 1p "$ETCD_WORK/out" | normalise >>"$TRANSCRIPT"
    normalise <"$ETCD_WORK/err" | sed 's/^/! /' >>"$TRANSCRIPT"
    id=$(ctl member list | sed -n '/, true$/s/,.*//p')
    write "learners: $(wc -w <<<"$id")"
    if [[ -n $id ]]; then
        t member add late --learner --peer-urls http://127.0.0.1:9
        t member promote "$id"
        t member update "$id" --peer-urls http://127.0.0.1:10
        ctl member list | sed -n '/, true$/s/^[^,]*/ID/p' >>"$TRANSCRIPT"
        t member remove "$id"
        t member remove "$id"
        t member update "$id" --peer-urls http://127.0.0.1:10
    fi
    write "members: $(ctl member list | wc -l)"

    section 'endpoints'
    quiet put h/1 one
    quiet put h/2 two
    t endpoint health
    at "$ONE" t endpoint health -w json
    at 127.0.0.1:1 t --dial-timeout 1s --command-timeout 1s endpoint health
    statuses | jq -c '[.[] | .Status | {header: (.header | keys), keys: (. | keys), positive: (.dbSize > 0 and .raftIndex > 0 and .raftTerm > 0), leader: (.leader != "0")}] | unique | .[]' >>"$TRANSCRIPT"
    write "leaders: $(statuses | jq '[.[].Status.leader] | unique | length')," \
        "members that lead: $(statuses | jq '[.[].Status | select(.leader == .header.member_id)] | length')," \
        "endpoints: $(statuses | jq 'length')"
    await 'endpoint hashkv: all endpoints agree' endpoints_agree
    write 'every endpoint has the same hash of keys'
    ctl endpoint hashkv -w json | jq -c '.[0].HashKV | keys' >>"$TRANSCRIPT"
    ctl endpoint hashkv --rev $((BASE + 1)) -w json | jq -c '[.[].HashKV.hash] | unique | length' >>"$TRANSCRIPT"
    at "$ONE" t endpoint hashkv --rev 1
    at "$ONE" t endpoint hashkv --rev $((BASE + 100))

    section 'move-leader'
    leader=$(statuses | jq -r '[.[] | select(.Status.leader == .Status.header.member_id)][0].Endpoint')
    target=$(statuses | jq -r '[.[] | select(.Status.leader != .Status.header.member_id)][0].Status.header.member_id')
    at "$leader" t move-leader 1234567890abcdef
    other=$(statuses | jq -r '[.[] | select(.Status.leader != .Status.header.member_id)][0].Endpoint')
    at "$other" t move-leader "$(hexadecimal "$target")"
    at "$leader" t move-leader "$(hexadecimal "$target")"
    await 'move-leader: the target leads' leads "$target"

    section 'alarms and upkeep'
    t alarm list
    t alarm disarm
    t alarm list -w json
    t defrag
    at "$ONE" t defrag

    section 'access'
    t auth status
    t user list
    t role list
    t auth enable
    t user get nobody
    t role get nothing
    t user delete nobody
}

leads() {
    [[ $(statuses | jq -c '[.[].Status.leader] | unique') == "[\"$1\"]" ]]
}

snapshots() {
    local file=$ETCD_WORK/snapshot.db
    section 'snapshot'
    quiet put snap/1 one
    quiet put snap/1 two
    quiet put snap/2 gone
    quiet del snap/2
    at "$ONE" t snapshot save "$file"
    t snapshot status "$file" -w json
    t snapshot save "$file.none"
    t snapshot status "$ETCD_WORK/no-such-file"
    # Every key with its revisions must be there after a restore into etcd itself.
    [[ -n ${RESTORE_ETCD-} ]] || return 0
    ctl snapshot restore "$file" --data-dir "$ETCD_WORK/restored" --name r \
        --initial-cluster "r=http://127.0.0.1:$((RESTORE_PORT + 1))" \
        --initial-advertise-peer-urls "http://127.0.0.1:$((RESTORE_PORT + 1))" >"$ETCD_WORK/out" 2>&1 ||
        write 'not restored:' "$(normalise <"$ETCD_WORK/out")"
    "$RESTORE_ETCD" --name r --data-dir "$ETCD_WORK/restored" --logger zap --log-level warn \
        --listen-client-urls "http://127.0.0.1:$RESTORE_PORT" \
        --advertise-client-urls "http://127.0.0.1:$RESTORE_PORT" \
        --listen-peer-urls "http://127.0.0.1:$((RESTORE_PORT + 1))" \
        >"$ETCD_WORK/restored.log" 2>&1 </dev/null &
    PIDS+=($!)
    await 'snapshot: an etcd serves what was restored' restored_serves
    if diff <(every_key "$ENDPOINTS") <(every_key "127.0.0.1:$RESTORE_PORT") >"$ETCD_WORK/differences" 2>&1; then
        write 'etcd has every key with its revisions after the restore'
    else
        write 'etcd has something else after the restore:' "$(head -n 20 "$ETCD_WORK/differences")"
    fi
}

restored_serves() {
    "$ETCDCTL" --endpoints "127.0.0.1:$RESTORE_PORT" --command-timeout 2s get ready >/dev/null 2>&1
}

every_key() {
    "$ETCDCTL" --endpoints "$1" get '' --prefix -w json | jq -c '.count, .kvs[]'
    "$ETCDCTL" --endpoints "$1" get '' --prefix --rev $((BASE + 3)) -w json | jq -c '.count, .kvs[]'
}

mirrors() {
    section 'make-mirror'
    quiet put m/1 one
    quiet put m/2 two
    background mirror make-mirror "$ONE" --prefix m/ --dest-prefix copy/
    await 'make-mirror: what was there' has_keys copy/ 2
    quiet put m/3 three
    quiet del m/1
    await 'make-mirror: what came' get_is copy/3 three
    await 'make-mirror: what went' has_no_keys copy/1
    finish mirror
    t get copy/ --prefix
}

get_is() {
    [[ $(ctl get "$1" --print-value-only) == "$2" ]]
}

performance() {
    [[ ${LONG-} == 1 ]] || return 0
    section 'check perf'
    # Whether it passes is a measurement of the machine; that it runs to its end is not.
    ctl --command-timeout 0 check perf --load s 2>&1 | tr '\r' '\n' | grep -oE '^(PASS|FAIL|Slowest|Stddev|Throughput)|check performance' |
        sed -E 's/PASS|FAIL/VERDICT/' | sort -u >>"$TRANSCRIPT"
}

key_values
transactions
watches
leases
locks
compactions
clusters
mirrors
snapshots
performance
