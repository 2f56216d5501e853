#!/usr/bin/env bash
# Snapshot files against real etcds: they restore ours and go on from there, and we
# read theirs.
#
#   tests/etcd/snapshot_file.sh SAMPLE [FOLDER...]
#
# SAMPLE is the example `sample` of crates/etcd-snapshot. Each FOLDER holds an etcd,
# its etcdctl and perhaps its etcdutl; without one, the etcd on the PATH is taken, and
# when there is none, nothing is tested and the exit code is 77. Of two etcds that
# restored the same file, the hashes of all keys must be equal.
#
# It stops at the first wrong answer and shows the end of etcd's log. Clients connect to
# SNAPSHOT_BASE_PORT, peers to ten above it. The default is below the ports that the
# system gives to connections, and above those of run.sh.
set -euo pipefail

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SAMPLE=${1:?usage: snapshot_file.sh SAMPLE [FOLDER...]}
shift
BASE_PORT=${SNAPSHOT_BASE_PORT:-27400}
LARGE_KEYS=${SNAPSHOT_LARGE_KEYS:-20000}

if (($# == 0)); then
    found=$(command -v etcd) || {
        say 'there is no etcd here; nothing is tested'
        exit 77
    }
    set -- "$(dirname "$found")"
fi

FOLDER=''
FOUND_PATH=$PATH
# Where etcd keeps its data and its log when it is started under the name `one`.
DATA=$ETCD_WORK/one-0
LOG=$ETCD_WORK/one-0.log
part=''

# ---- reporting ----

begin() {
    part=$1
    say "-- $part"
}

fail() {
    say "FAILED in part $part: $*"
    show_logs one
    exit 1
}

# ---- etcd ----

control() {
    etcdctl --endpoints "127.0.0.1:$BASE_PORT" --command-timeout 60s "$@"
}

# The tool for files moved from etcdctl to etcdutl with 3.5.
file_tool() {
    if [[ -x $FOLDER/etcdutl ]]; then "$FOLDER/etcdutl" "$@"; else etcdctl "$@"; fi
}

restore() {
    local peers=http://127.0.0.1:$((BASE_PORT + 10))
    rm -rf "$DATA"
    file_tool snapshot restore "$1" --name n0 --data-dir "$DATA" --initial-cluster "n0=$peers" \
        --initial-advertise-peer-urls "$peers" >"$LOG" 2>&1 || fail "$1 is not restored"
}

# The etcd of the folder, which comes first on the PATH; that is what 3.4 stands for.
start() {
    start_etcd one 3.4 "$BASE_PORT" 1 || die "etcd does not start in part $part"
}

# In good order, so that its database holds all that it has applied.
stop() {
    kill -TERM "${PIDS[0]}"
    wait "${PIDS[0]}" 2>/dev/null || true
    PIDS=()
}

# ---- assertions ----

# expect WANTED FOUND MESSAGE
expect() {
    [[ $1 == "$2" ]] || fail "$3: $2 instead of $1"
}

# agrees FILE [REVISION]: etcd answers with the keys that the file has.
agrees() {
    local file=$1 revision=${2:-0}
    control get '' --from-key --rev "$revision" -w protobuf >"$ETCD_WORK/answer" || fail "etcd cannot list revision $revision"
    # shellcheck disable=SC2086  # no second argument when there is no revision
    "$SAMPLE" compare "$file" "$ETCD_WORK/answer" ${2:-} >&2 || fail "etcd and $file disagree"
}

# describes FILE TEXT: what we say of the file contains the text.
describes() {
    local description
    description=$("$SAMPLE" describe "$1") || fail "$1 cannot be read"
    [[ $description == *"$2"* ]] || fail "$1 is not described with $2: $description"
}

# saved_agrees NAME: what etcd saves, we read, and it holds what etcd answers.
saved_agrees() {
    control snapshot save "$ETCD_WORK/$1" >>"$LOG" 2>&1 || fail 'etcd cannot save a snapshot'
    describes "$ETCD_WORK/$1" 'checksum true'
    agrees "$ETCD_WORK/$1"
}

status_is() {
    local file=$1 revision=$2 status
    status=$(file_tool snapshot status "$file" -w json)
    jq -e --argjson revision "$revision" --argjson size "$(($(stat -c %s "$file") - 32))" \
        '.revision == $revision and .totalSize == $size and .hash > 0 and .totalKey > 0' <<<"$status" >/dev/null ||
        fail "the status of $file is $status"
}

# hash_agrees NAME: the hash of all keys is the one that the etcds before this one had.
hash_agrees() {
    local hash
    hash=$(control endpoint hashkv -w json | jq -r '.[0].HashKV.hash')
    [[ $hash =~ ^[1-9][0-9]*$ ]] || fail "the hash of all keys is $hash"
    [[ -s $ETCD_WORK/$1.hash ]] || printf '%s\n' "$hash" >"$ETCD_WORK/$1.hash"
    expect "$(<"$ETCD_WORK/$1.hash")" "$hash" 'the hash of all keys'
}

revision_after() {
    control "$@" -w json | jq -r '.header.revision'
}

# ---- the parts ----

small_file() {
    begin "$VERSION restores a small file"
    status_is "$ETCD_WORK/small.db" 9
    restore "$ETCD_WORK/small.db"
    start
    agrees "$ETCD_WORK/small.db"
    local revision
    for revision in 3 4 5 6 7 8; do agrees "$ETCD_WORK/small.db" "$revision"; done
    local answer
    answer=$(control get '' --from-key --rev 2 2>&1) || true
    [[ $answer == *'has been compacted'* ]] || fail "revision 2 is not compacted: $answer"
    hash_agrees small

    begin "$VERSION has its leases"
    expect 2 "$(control lease list | grep -c '^[0-9a-f]\{16\}$')" 'the number of leases'
    local lease
    lease=$(control lease timetolive 0123456789abcdef --keys -w json)
    # Early releases of 3.5 forget at any start what was left of a lease, and begin anew.
    jq -e '."granted-ttl" == 90000 and (.ttl | (. > 49000 and . <= 50000) or (. > 89000 and . <= 90000))
        and (.keys | map(@base64d) | sort) == ["leased/1", "leased/2"]' <<<"$lease" >/dev/null ||
        fail "the lease is $lease"

    begin "$VERSION goes on after it"
    expect 10 "$(revision_after put new/key value)" 'the next revision'
    expect 11 "$(revision_after put config/a newer --prev-kv)" 'the revision after it'
    control lease revoke 0123456789abcdef >/dev/null
    expect '' "$(control get leased/ --prefix)" 'the keys of the revoked lease'
    saved_agrees small-saved.db
    stop
    start
    agrees "$ETCD_WORK/small-saved.db"
    stop
}

large_file() {
    begin "$VERSION restores a large file"
    local revision=$((3 + 2 * LARGE_KEYS)) step=$((LARGE_KEYS / 20)) from
    status_is "$ETCD_WORK/large.db" "$revision"
    restore "$ETCD_WORK/large.db"
    start
    agrees "$ETCD_WORK/large.db"
    agrees "$ETCD_WORK/large.db" $((revision - LARGE_KEYS / 3))
    hash_agrees large
    expect $((LARGE_KEYS / 10)) "$(control lease list | grep -c '^[0-9a-f]\{16\}$')" 'the number of leases'

    # Compaction deletes from every page that was written in bulk.
    begin "$VERSION deletes, compacts and defragments it"
    for ((from = 0; from + step < LARGE_KEYS; from += step)); do
        control del "key/$(printf '%09d' "$from")" "key/$(printf '%09d' $((from + step * 9 / 10)))" >/dev/null
    done
    control compact "$(revision_after get none)" --physical >/dev/null
    saved_agrees large-compacted.db
    control defrag >/dev/null || fail 'it does not defragment'
    saved_agrees large-saved.db
    stop
}

own_file() {
    begin "$VERSION saves a file of its own"
    local number lease
    rm -rf "$DATA"
    start
    saved_agrees own-empty.db
    for ((number = 0; number < 60; number++)); do control put "key/$((number % 40))" "value $number" >/dev/null; done
    head -c 700000 /dev/zero | tr '\0' v | control put large >/dev/null
    lease=$(control lease grant 5000 | cut -d ' ' -f 2)
    control put --lease "$lease" leased value >/dev/null
    control del key/1 key/3 >/dev/null
    printf '\n%s\n\n\n' $'put txn/1 a\nput txn/2 b\ndel key/7' | control txn >/dev/null
    saved_agrees own.db
    control compact 50 >/dev/null
    control del key/ --prefix >/dev/null
    saved_agrees own-compacted.db
    describes "$ETCD_WORK/own-compacted.db" 'compact_revision: Some(50)'
    # The newest revision is a deletion that compaction takes away.
    control compact "$(revision_after get none)" --physical >/dev/null
    saved_agrees own-emptied.db
    stop
    # What lies in the data folder has no checksum, and perhaps free pages.
    describes "$DATA/member/snap/db" 'checksum false'
}

"$SAMPLE" write "$ETCD_WORK/small.db" >&2
"$SAMPLE" write "$ETCD_WORK/large.db" "$LARGE_KEYS" >&2
for FOLDER in "$@"; do
    PATH=$FOLDER:$FOUND_PATH
    VERSION="etcd $(etcd --version | sed -n 's/^etcd Version: //p')"
    small_file
    large_file
    own_file
done
say 'all parts are as they should be'
