"""How to configure, start and stop each BGP speaker that is measured.

Every speaker listens on 127.0.0.1:1790, waits for its peers to connect, installs no kernel routes, applies no policy, and
exports everything to everyone.

To add a speaker: subclass Peer, write config() and command(), add it to PEERS.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

RUN = os.environ.get("BENCH_RUN", os.path.join(tempfile.gettempdir(), "tortie-bench"))
PORT = 1790
START_S = 60
STOP_S = 3


def nth(base, i):
    """The i-th address from `base`, 250 to a /24: as bgpload counts."""
    a, b, c, d = map(int, base.split("."))
    v = (a << 24 | b << 16 | c << 8 | d) + i // 250 * 256 + i % 250
    return ".".join(str(v >> s & 255) for s in (24, 16, 8, 0))


class Spec:
    """What a scenario needs of the speaker's configuration: peers are (address, AS, name)."""

    def __init__(self, mode="ebgp", senders=1, receivers=1, v6=False):
        self.v6, self.ibgp = v6, mode == "ibgp"
        self.peers = [(nth("127.1.0.1", i), 65000 if self.ibgp else 65001, "s%d" % i) for i in range(senders)]
        self.peers += [(nth("127.2.0.1", i), 65000 if self.ibgp else 65002, "r%d" % i) for i in range(receivers)]


class Peer:
    name = ""
    package = None  # Debian's
    binary = ""
    env = {}

    def __init__(self):
        self.dir = os.path.join(RUN, self.name)
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        os.chmod(self.dir, 0o755)
        self.proc = None

    def config(self, spec):
        raise NotImplementedError

    def command(self, spec):
        raise NotImplementedError

    def version(self):
        raise NotImplementedError

    @classmethod
    def is_available(cls):
        return shutil.which(cls.binary) is not None

    def path(self, f):
        return os.path.join(self.dir, f)

    def write(self, f, text):
        with open(self.path(f), "w") as h:
            h.write(text)
        os.chmod(self.path(f), 0o600)
        return self.path(f)

    def output(self, command):
        r = subprocess.run(command, capture_output=True, text=True)
        return (r.stdout + r.stderr).strip().split("\n")[0]

    def start(self, spec):
        if self.listening():
            raise RuntimeError("something listens on port %d already" % PORT)
        self.config(spec)
        with open(self.path("log"), "w") as log:
            self.proc = subprocess.Popen(self.command(spec), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         cwd=self.dir, env={**os.environ, **self.env}, process_group=0)
        until = time.time() + START_S
        while time.time() < until and self.proc.poll() is None:
            if self.listening():
                time.sleep(0.6)  # let it finish starting
                return
            time.sleep(0.1)
        tail = open(self.path("log")).read()[-2000:]
        self.stop()
        raise RuntimeError("%s does not listen: %s" % (self.name, tail))

    def listening(self):
        text = "".join(open(f).read() for f in ("/proc/net/tcp", "/proc/net/tcp6") if os.path.exists(f))
        return re.search(r":%04X [0-9A-F]+:0000 0A" % PORT, text) is not None

    def stop(self):
        p, self.proc = self.proc, None
        if not p:
            return
        if p.poll() is None:
            self.kill(p, signal.SIGTERM)
            try:
                p.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        self.kill(p, signal.SIGKILL)
        p.wait()
        until = time.time() + 5
        while self.listening() and time.time() < until:
            time.sleep(0.1)

    @staticmethod
    def kill(p, sig):
        try:
            os.killpg(p.pid, sig)  # its own process group, made at start
        except ProcessLookupError:
            pass


class Bird(Peer):
    name = "bird"
    package = "bird2"
    binary = "/usr/sbin/bird"

    def command(self, spec):
        return [self.binary, "-f", "-c", self.path("bird.conf"), "-s", self.path("bird.ctl"), "-P", self.path("bird.pid")]

    def version(self):
        return self.output([self.binary, "--version"])

    def config(self, spec):
        fam = "ipv6" if spec.v6 else "ipv4"
        rr = "rr client; rr cluster id 10.0.0.1;" if spec.ibgp else ""
        nh = "" if spec.ibgp else "next hop self;"
        c = f"""
log "{self.path('bird.log')}" {{ warning, error, fatal, bug, auth }};
router id 10.0.0.1;
protocol device {{ scan time 60; }}
protocol static {{ ipv4; route 198.18.0.0/15 via "lo"; }}
protocol static {{ ipv6; route 2001:db8:ffff::/48 via "lo"; }}
template bgp peer {{
  local 127.0.0.1 port {PORT} as 65000;
  multihop;
  passive yes;
  hold time 240;
  error wait time 1, 2;
  connect delay time 1;
  {rr}
  {fam} {{ import where source = RTS_BGP; export where source = RTS_BGP; {nh} }};
}}
"""
        for addr, asn, name in spec.peers:
            c += f"protocol bgp {name} from peer {{ neighbor {addr} as {asn}; }}\n"
        self.write("bird.conf", c)


class Frr(Peer):
    name = "frr"
    package = "frr"
    binary = "/usr/lib/frr/bgpd"

    def command(self, spec):
        return [self.binary, "-f", self.path("bgpd.conf"), "-Z", "-n", "-S", "-p", str(PORT), "-l", "127.0.0.1",
                "-i", self.path("bgpd.pid"), "-P", "0", "--vty_socket", self.dir]

    def version(self):
        return self.output([self.binary, "--version"]).replace("bgpd version", "FRR")

    def config(self, spec):
        c = f"""
log file {self.path('bgpd.log')} warnings
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp disable-ebgp-connected-route-check
 no bgp default ipv4-unicast
 timers bgp 80 240
 neighbor PEER peer-group
 neighbor PEER passive
"""
        for addr, asn, _ in spec.peers:
            c += f" neighbor {addr} remote-as {asn}\n neighbor {addr} peer-group PEER\n"
        c += f" address-family {'ipv6' if spec.v6 else 'ipv4'} unicast\n  neighbor PEER activate\n"
        if spec.ibgp:
            c += "  neighbor PEER route-reflector-client\n"
        self.write("bgpd.conf", c + " exit-address-family\n")


class OpenBgpd(Peer):
    name = "openbgpd"
    package = "openbgpd"
    binary = "/usr/sbin/bgpd"

    def command(self, spec):
        return [self.binary, "-d", "-f", self.path("bgpd.conf")]

    def version(self):
        return "OpenBGPD " + self.output(["dpkg-query", "-W", "-f", "${Version}", "openbgpd"])

    def config(self, spec):
        os.makedirs("/run/openbgpd", exist_ok=True)  # its chroot; the package makes it at boot only
        fam, other = ("IPv6", "IPv4") if spec.v6 else ("IPv4", "IPv6")
        rr = "route-reflector 10.0.0.1" if spec.ibgp else ""
        c = f"""
AS 65000
router-id 10.0.0.1
listen on 127.0.0.1 port {PORT}
socket "{self.path('ctl')}"
fib-update no
nexthop qualify via default
holdtime 240
allow from any
allow to any
"""
        for asn in sorted({p[1] for p in spec.peers}):
            c += f'group "as{asn}" {{\n remote-as {asn}\n passive\n announce {fam} unicast\n announce {other} none\n {rr}\n'
            c += "".join(f' neighbor {addr} {{ descr "{name}" }}\n' for addr, a, name in spec.peers if a == asn) + "}\n"
        self.write("bgpd.conf", c)


class GoBgp(Peer):
    name = "gobgp"
    package = "gobgpd"
    binary = "/usr/bin/gobgpd"
    api = "127.0.0.1:50061"

    def command(self, spec):
        return [self.binary, "-f", self.path("gobgpd.toml"), "-l", "warn", "--api-hosts", self.api, "--pprof-disable"]

    def version(self):
        return self.output([self.binary, "--version"])

    def config(self, spec):
        fam = "ipv6-unicast" if spec.v6 else "ipv4-unicast"
        rr = """[neighbors.route-reflector.config]
route-reflector-client = true
route-reflector-cluster-id = "10.0.0.1"
""" if spec.ibgp else ""
        c = f"""[global.config]
as = 65000
router-id = "10.0.0.1"
port = {PORT}
local-address-list = ["127.0.0.1"]
"""
        for addr, asn, _ in spec.peers:
            c += f"""
[[neighbors]]
[neighbors.config]
neighbor-address = "{addr}"
peer-as = {asn}
[neighbors.timers.config]
hold-time = 240
keepalive-interval = 80
[neighbors.transport.config]
passive-mode = true
local-address = "127.0.0.1"
{rr}[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = "{fam}"
"""
        self.write("gobgpd.toml", c)


class Tortie(Peer):
    """bgpd of this project, as it is driven in use: resources through `calicoctl apply` into a store, then bgpd."""
    name = "tortie"
    folder = os.environ.get("BENCH_BIN", "target/release")
    binary = os.path.join(folder, "bgpd")

    def command(self, spec):
        return [os.path.abspath(self.binary), "--no-fib", "--run-dir", self.dir]

    def version(self):
        return "Tortie " + os.environ.get("BENCH_COMMIT", "?")

    def config(self, spec):
        self.env = {"DATASTORE_TYPE": "sqlite", "SQLITE_PATH": self.path("store.db"), "NODENAME": "bench",
                    "CALICO_ROUTER_ID": "10.0.0.1", "RUST_LOG": "warn"}
        v3 = "projectcalico.org/v3"
        node = {"ipv4Address": "127.0.0.1/8", "asNumber": 65000}
        if spec.ibgp:
            node["routeReflectorClusterID"] = "10.0.0.1"
        accept = [{"action": "Accept"}]
        docs = [
            {"apiVersion": v3, "kind": "BGPConfiguration", "metadata": {"name": "default"},
             "spec": {"asNumber": 65000, "nodeToNodeMeshEnabled": False, "listenPort": PORT}},
            {"apiVersion": v3, "kind": "Node", "metadata": {"name": "bench"}, "spec": {"bgp": node}},
            {"apiVersion": v3, "kind": "BGPFilter", "metadata": {"name": "all"},
             "spec": {"importV4": accept, "exportV4": accept, "importV6": accept, "exportV6": accept}},
        ]
        for addr, asn, name in spec.peers:
            peer = {"node": "bench", "peerIP": addr, "asNumber": asn, "filters": ["all"]}
            if spec.v6:
                peer["families"] = ["IPv6"]
            docs.append({"apiVersion": v3, "kind": "BGPPeer", "metadata": {"name": name}, "spec": peer})
        f = self.write("resources.yaml", "\n---\n".join(json.dumps(d) for d in docs) + "\n")
        r = subprocess.run([os.path.join(self.folder, "calicoctl"), "apply", "-f", f], capture_output=True, text=True,
                           env={**os.environ, **self.env})
        if r.returncode:
            raise RuntimeError("calicoctl apply: " + r.stdout + r.stderr)


PEERS = {p.name: p for p in (Tortie, Bird, Frr, OpenBgpd, GoBgp)}
