#!/bin/sh
# A real Kubernetes API server over a real etcd, without a cluster: what the Kubernetes store is tested against.
#
#   kube-apiserver.sh build OUTPUT [SOURCE]   builds one: from a tree of Kubernetes' source (a checkout of a release, with its
#                                             vendor directory), or from the source package that this Debian has
#   kube-apiserver.sh run DIR                 runs one until its standard input ends; everything it writes is in DIR
#   kube-apiserver.sh run --remove DIR        and removes DIR at the end
#
# `run` needs etcd, openssl, and kube-apiserver in KUBE_APISERVER or in PATH. When it answers, DIR/kubeconfig is there: with the
# contexts `admin` (everything), `nobody` (no rights) and `token` (a token, the rights of admin). DIR/kube-apiserver.pid is the
# server's; one that is killed is started again as soon as DIR/hold is not there.
set -eu

usage() { sed -n '4,7s/^# *//p' "$0" >&2; exit 1; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

build() {
    output=$1 source=${2:-}
    if [ -z "$source" ]; then
        # Debian 12's is 1.20 with its whole vendor directory; later ones have only kubectl.
        source=$(mktemp -d)
        trap 'rm -rf "$source"' EXIT
        (cd "$source" && apt-get source --download-only kubernetes >/dev/null && tar xzf kubernetes_*.orig.tar.gz --strip-components=1)
    fi
    [ -d "$source/cmd/kube-apiserver" ] || fail "$source has no cmd/kube-apiserver: it is no source tree of Kubernetes"
    [ -d "$source/vendor" ] || fail "$source has no vendor directory; take a checkout of a release"
    go=${GO:-go}
    command -v "$go" >/dev/null || fail "no go; install Debian's golang-go, or name another in GO"
    version=$(sed -n 's/.*DefaultKubeBinaryVersion *= *"\(.*\)"/\1/p' "$source/staging/src/k8s.io/component-base/version/base.go")
    version=${version:-1.20}
    flags="-s -w -X k8s.io/component-base/version.gitVersion=v$version.0 -X k8s.io/component-base/version.gitMajor=${version%.*} -X k8s.io/component-base/version.gitMinor=${version#*.}"
    output=$(realpath -m "$output")
    (cd "$source" && CGO_ENABLED=0 GOFLAGS=-mod=vendor GOTOOLCHAIN=local "$go" build -ldflags "$flags" -o "$output" ./cmd/kube-apiserver)
}

# certificate NAME SUBJECT EXTENSIONS: DIR/NAME.pem and DIR/NAME.key, by our CA.
certificate() {
    printf '%s\n' "$3" >"$1.ext"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.pem" 2>/dev/null
}

# free_port: one that nobody listens on now.
free_port() {
    while :; do
        port=$(($(od -An -N2 -tu2 /dev/urandom) % 20000 + 20000))
        if ! grep -qi ":$(printf %04X "$port") " /proc/net/tcp; then
            echo "$port"
            return
        fi
    done
}

run() {
    server=${KUBE_APISERVER:-$(command -v kube-apiserver || true)}
    [ -n "$server" ] && [ -x "$server" ] || fail "no kube-apiserver: KUBE_APISERVER must name one, or it must be in PATH"
    mkdir -p "$1"
    cd "$1"
    directory=$PWD
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem 2>/dev/null
    certificate server /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,DNS:localhost"
    certificate admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
    certificate nobody /CN=nobody extendedKeyUsage=clientAuth
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out accounts.key 2>/dev/null
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s,robot,robot,"system:masters"\n' "$token" >tokens.csv
    printf %s "$token" >token

    etcd_port=$(free_port) peer_port=$(free_port) port=$(free_port)
    etcd=http://127.0.0.1:$etcd_port
    etcd --name test --log-level error --data-dir data --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
        --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
        --initial-cluster "test=http://127.0.0.1:$peer_port" >etcd.log 2>&1 &
    etcd_pid=$!
    printf %s "$etcd" >etcd
    keeper_pid=
    # shellcheck disable=SC2154
    trap 'kill $keeper_pid 2>/dev/null || :; kill -9 "$(cat kube-apiserver.pid 2>/dev/null)" $etcd_pid 2>/dev/null || :
        [ -z "$remove" ] || { wait; cd /; rm -rf "$directory"; }' EXIT
    trap 'exit 1' INT TERM HUP

    # The server, again whenever it ends.
    (
        trap 'exit 0' TERM
        while :; do
            "$server" --etcd-servers="$etcd" --bind-address=127.0.0.1 --secure-port="$port" --advertise-address=127.0.0.1 \
                --cert-dir=. --tls-cert-file=server.pem --tls-private-key-file=server.key --client-ca-file=ca.pem \
                --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=accounts.key \
                --service-account-signing-key-file=accounts.key --service-cluster-ip-range=10.96.0.0/16 \
                --authorization-mode=RBAC --token-auth-file=tokens.csv --endpoint-reconciler-type=none \
                --disable-admission-plugins=ServiceAccount --etcd-compaction-interval=0 --storage-media-type=application/json \
                >>kube-apiserver.log 2>&1 &
            echo $! >kube-apiserver.pid
            wait $! || :
            while [ -e hold ]; do sleep 0.1; done
        done
    ) </dev/null &
    keeper_pid=$!

    deadline=$(($(date +%s) + 120))
    until curl -sf --cacert ca.pem --cert admin.pem --key admin.key "https://127.0.0.1:$port/readyz" >/dev/null; do
        [ "$(date +%s)" -lt "$deadline" ] || fail "the server is not ready; see $1/kube-apiserver.log and $1/etcd.log"
        sleep 0.2
    done
    # Relative paths are relative to the file.
    cat >kubeconfig.new <<EOF
apiVersion: v1
kind: Config
current-context: admin
clusters:
- name: test
  cluster:
    server: https://127.0.0.1:$port
    certificate-authority: ca.pem
users:
- name: admin
  user:
    client-certificate: admin.pem
    client-key: admin.key
- name: nobody
  user:
    client-certificate-data: $(base64 -w0 nobody.pem)
    client-key-data: $(base64 -w0 nobody.key)
- name: robot
  user:
    tokenFile: token
contexts:
- name: admin
  context: {cluster: test, user: admin}
- name: nobody
  context: {cluster: test, user: nobody}
- name: token
  context: {cluster: test, user: robot}
EOF
    mv kubeconfig.new kubeconfig
    # Ends with whoever started it, also when that one is killed.
    cat >/dev/null
}

case "${1:-}" in
build) [ $# -ge 2 ] && [ $# -le 3 ] || usage; build "$2" "${3:-}" ;;
run)
    remove=
    [ "${2:-}" != --remove ] || { remove=yes; shift; }
    [ $# = 2 ] || usage
    run "$2"
    ;;
*) usage ;;
esac
