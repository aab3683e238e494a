#!/bin/sh
# Measures, and renders docs/benchmarks.md from what was measured:
#   tests/bench/run.sh bgp [--peers tortie,bird,...] [--scenarios A,B,...] [--runs N] [--add]
#   tests/bench/run.sh sim [arguments of bgp-sim]
#   tests/bench/run.sh sqlite [arguments of sqlite-bench]
#   tests/bench/run.sh ipam [arguments of ipam-bench: --scenarios a,b,c,d,e,f --data DIR]
#   tests/bench/run.sh report
# Builds what it needs and installs nothing. The rivals are Debian's bird2, frr, openbgpd and gobgpd.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
results="$root/tests/bench/results"
cd "$root"

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing; on Debian: apt-get install $2"; }

build() {
    need cargo "rustc-web cargo-web"
    say "Building $*"
    packages=
    for package in "$@"; do packages="$packages -p $package"; done
    # shellcheck disable=SC2086
    cargo build --release --locked --quiet $packages
    BENCH_BIN=${CARGO_TARGET_DIR:-$root/target}/release
    BENCH_COMMIT=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)
    export BENCH_BIN BENCH_COMMIT
}

report() {
    python3 -B "$root/tests/bench/bgp/report.py" "$results" >"$root/docs/benchmarks.md"
    say "Wrote docs/benchmarks.md"
}

need python3 python3
what=${1:-}
[ $# -eq 0 ] || shift
case "$what" in
bgp)
    need ip iproute2
    need unshare util-linux
    [ "$(id -u)" = 0 ] || fail "a network namespace of its own needs root"
    build bgpd calicoctl bgpload
    BGPLOAD=$BENCH_BIN/bgpload
    export BGPLOAD
    # A namespace of its own: port 1790 is free there, and nothing gets out.
    status=0
    unshare --net sh -c 'ip link set lo up && exec python3 -B "$@"' sh \
        "$root/tests/bench/bgp/bench.py" --out "$results/bgp.json" "$@" || status=$?
    [ ! -e "$results/bgp.json" ] || report
    exit "$status"
    ;;
sim)
    build bgp-sim
    "$BENCH_BIN/bgp-sim" --commit "$BENCH_COMMIT" --json "$results/sim.json" "$@"
    report
    ;;
sqlite)
    build sqlite-bench
    status=0
    "$BENCH_BIN/sqlite-bench" --commit "$BENCH_COMMIT" --json "$results/sqlite.json" "$@" || status=$?
    [ ! -e "$results/sqlite.json" ] || report
    exit "$status"
    ;;
ipam)
    need etcd etcd-server
    build ipam-bench tortie-controller
    status=0
    "$BENCH_BIN/ipam-bench" --commit "$BENCH_COMMIT" --json "$results/ipam.json" "$@" || status=$?
    [ ! -e "$results/ipam.json" ] || report
    exit "$status"
    ;;
report) report ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
