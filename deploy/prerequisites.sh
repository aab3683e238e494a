# What a Debian 12 machine needs to build, run and test Tortie. Sourced by deploy/quickstart.sh and tests/run.sh, which
# run in a POSIX shell; sets `cargo` to a toolchain that is new enough. Installs only what is missing, and says what.

# Building: the C of the BPF programs, of SQLite and of libbpf; etcd's protocol.
BUILD_PACKAGES="ca-certificates clang-19 gcc libc6-dev libelf-dev libprotobuf-dev make pkg-config protobuf-compiler zlib1g-dev"
# The lab: namespaces, real switches, a real etcd.
LAB_PACKAGES="bird2 etcd-client etcd-server frr gobgpd iproute2 iputils-ping libcap2-bin procps util-linux"
# The power-loss test of the embedded store: a guest with a disk of its own (see guest_kernel).
GUEST_PACKAGES="binutils busybox-static e2fsprogs qemu-system-x86"
GUEST_KERNEL=/var/cache/tortie/guest-kernel
# The interop scenarios of tests/run.sh: more speakers, packets that get lost, and judges of what goes over the wire and
# into files. g++ builds libFuzzer.
INTEROP_PACKAGES="bgpdump exabgp g++ nftables openbgpd pmacct tshark"
# Debian starts these on installation: a BGP speaker and a store that nobody asked for.
UNWANTED_SERVICES="frr bird gobgpd etcd openbgpd exabgp"

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# install_packages NAME...: those that are missing. Waits for another apt.
install_packages() {
    missing=
    for package in "$@"; do
        is_installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || fail "this is not Debian; install by hand:$missing"
    [ "$(id -u)" = 0 ] || fail "installing needs root; run this as root, or first: apt-get install$missing"
    say "Installing Debian packages:$missing"
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! { apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -qq update &&
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -y -qq \
            --no-install-recommends install $missing; } </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install:$missing"
    fi
    rm -f "$log"
    for service in $UNWANTED_SERVICES; do
        case "$service" in bird) package=bird2 ;; etcd) package=etcd-server ;; *) package=$service ;; esac
        case " $missing " in *" $package "*) stop_service "$service" ;; esac
    done
}

# guest_kernel: a kernel and its modules for guests, taken out of Debian's package: installing that would change how this
# machine boots. Without it the tests that need it are skipped.
guest_kernel() {
    [ ! -e "$GUEST_KERNEL/boot" ] && [ "$(uname -m)" = x86_64 ] || return 0
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    directory=$(mktemp -d)
    say "Taking a kernel for guests from Debian's package ${package:-linux-image-cloud-amd64}"
    if (cd "$directory" && apt-get -qq download "${package:-linux-image-cloud-amd64}" && dpkg-deb -x ./*.deb unpacked) >/dev/null 2>&1 &&
        mkdir -p "${GUEST_KERNEL%/*}"; then
        rm -rf "$GUEST_KERNEL"
        mv "$directory/unpacked" "$GUEST_KERNEL"
    else
        say "  it could not be downloaded"
    fi
    rm -rf "$directory"
}

stop_service() {
    say "  stopping and disabling the service $1, which its package has just started"
    if [ -d /run/systemd/system ]; then
        systemctl disable --now "$1.service" >/dev/null 2>&1 || true
    elif [ -x "/etc/init.d/$1" ]; then
        "/etc/init.d/$1" stop >/dev/null 2>&1 || true
        update-rc.d "$1" disable >/dev/null 2>&1 || true
    fi
}

# is_new_enough CARGO: not older than the workspace's rust-version.
is_new_enough() {
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    found=$(cd "$root" && "$1" --version 2>/dev/null | sed 's/^cargo \([0-9.]*\).*/\1/')
    [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

# rust_toolchain: sets `cargo`. Debian keeps a current Rust for its browsers: rustc-web and cargo-web, in /usr/bin.
rust_toolchain() {
    cargo=$(command -v cargo || true)
    if [ -n "$cargo" ] && is_new_enough "$cargo"; then
        return 0
    fi
    if ! { [ -x /usr/bin/cargo ] && is_new_enough /usr/bin/cargo; }; then
        say "No cargo of version $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml") or later: taking Debian's"
        install_packages rustc-web cargo-web
    fi
    cargo=/usr/bin/cargo
    is_new_enough "$cargo" || fail "$("$cargo" --version) is too old; install Rust from https://rustup.rs"
    PATH="/usr/bin:$PATH"
    export PATH
}

# build_programs PROFILE [OPTION...]: everything that the lab starts. Sets `bin`.
build_programs() {
    bin=${CARGO_TARGET_DIR:-$root/target}/$1
    say "Building ($1; crates come from the registry on the first run)"
    (cd "$root" && "$cargo" build --profile "$@" --locked --quiet --workspace) || fail "the build failed"
}
