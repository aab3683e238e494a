#!/bin/sh
# Installs what is needed, builds, and runs the lab: two leaf switches, a client, three nodes, and every step proved.
#   deploy/quickstart.sh [--keep] [--tor frr|bird|gobgp] [--store sqlite|etcd] [--ebgp]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/deploy/prerequisites.sh"

[ "$(id -u)" = 0 ] || fail "the lab makes network namespaces and loads BPF programs: run it as root (sudo $0)"
unshare --net true 2>/dev/null ||
    fail "the lab needs network namespaces and BPF, and this machine forbids them (in a container: run it with --privileged)"
# shellcheck disable=SC2086
install_packages $BUILD_PACKAGES $LAB_PACKAGES
rust_toolchain
build_programs release
exec "$bin/lab" quickstart "$@"
