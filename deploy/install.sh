#!/bin/sh
# Installs the release build on this machine as one real node: programs, units, settings, CNI configuration.
#   deploy/install.sh [--dry-run]
# Existing settings and CNI configuration are kept. Starts nothing: it ends with the commands that do.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/deploy/prerequisites.sh"
bin=${CARGO_TARGET_DIR:-$root/target}/release
units="felix.service bgpd.service tortie-controller.service"

case "${1:-}" in
--dry-run) run() { say "$*"; } ;;
"") run() { say "$*"; "$@"; } ;;
*) fail "unknown option $1; the only one is --dry-run" ;;
esac

# keep FILE TO: installs a file that the operator may have changed since.
keep() {
    if [ -e "$2" ]; then
        say "# $2 exists and is kept"
    else
        run install -D -m 644 "$1" "$2"
    fi
}

for program in felix bgpd calicoctl bgpctl tortie-controller tortie tortie-ipam; do
    [ -x "$bin/$program" ] || fail "$bin/$program does not exist; build first: cargo build --release --locked"
done
[ "$(id -u)" = 0 ] || [ "${1:-}" = --dry-run ] || fail "installing needs root"
for program in felix bgpd calicoctl bgpctl tortie-controller; do
    run install -D -m 755 "$bin/$program" "/usr/local/bin/$program"
done
for plugin in tortie tortie-ipam; do
    run install -D -m 755 "$bin/$plugin" "/opt/cni/bin/$plugin"
done
for unit in $units; do
    run install -D -m 644 "$root/deploy/systemd/$unit" "/etc/systemd/system/$unit"
done
keep "$root/deploy/systemd/tortie.env" /etc/tortie/tortie.env
keep "$root/deploy/systemd/10-tortie.conflist" /etc/cni/net.d/10-tortie.conflist
run install -d -m 700 /var/lib/tortie
say "# Describe this node and its pools (docs/examples), then start it:"
say "calicoctl apply -f node.yaml -f pool.yaml"
say "systemctl daemon-reload && systemctl enable --now $units"
