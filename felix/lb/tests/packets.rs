//! Packet in, verdict, packet out: the programs run on single packets (`BPF_PROG_TEST_RUN`), whose checksums are
//! complete here, so every one of them is checked. A step's packet out feeds the next hop.

mod lab;

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use felix_lb::LoadBalancer;
use lab::*;
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const TTL: u8 = 64;
const ETHER_LEN: usize = 14;

const PASS: i32 = -1; // TCX_NEXT
const DROP: i32 = 2; // TC_ACT_SHOT
const REDIRECT: i32 = 7; // TC_ACT_REDIRECT

/// What is interesting about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    proto: u8,
    flags: u8,
    ttl: u8,
    /// 32-bit words of IPv4 options (no-operation).
    options: u8,
    fragment: u16,
    /// Whether a UDP packet carries a checksum.
    has_checksum: bool,
}

impl Packet {
    fn tcp(flags: u8, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Self {
        Self { from, to, proto: TCP, flags, ttl: TTL, options: 0, fragment: 0, has_checksum: true }
    }

    fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Self {
        Self { proto: UDP, ..Self::tcp(0, from, to) }
    }

    /// As one hop further, with other ends.
    fn became(self, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Self {
        Self { from, to, ttl: self.ttl - 1, ..self }
    }

    fn encode(&self) -> Vec<u8> {
        let payload = b"payload of an odd length.";
        let mut l4 = [self.from.1.to_be_bytes(), self.to.1.to_be_bytes()].concat();
        if self.proto == UDP {
            l4.extend(((8 + payload.len()) as u16).to_be_bytes());
            l4.extend([0, 0]);
        } else {
            l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        }
        l4.extend(payload);
        let ihl = 5 + self.options;
        let total = (usize::from(ihl) * 4 + l4.len()) as u16;
        let mut ip = vec![0x40 | ihl, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, self.proto, 0, 0]);
        ip.extend(self.from.0.octets());
        ip.extend(self.to.0.octets());
        ip.extend(std::iter::repeat_n(1, usize::from(self.options) * 4));
        let check = !sum(&ip, 0);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        if self.has_checksum {
            let at = if self.proto == UDP { 6 } else { 16 };
            let check = !sum(&l4, self.pseudo(l4.len()));
            l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &ip, &l4].concat()
    }

    /// Panics where a checksum or the payload is wrong.
    fn decode(frame: &[u8]) -> Self {
        let ip = &frame[ETHER_LEN..];
        let header = usize::from(ip[0] & 15) * 4;
        assert_eq!(sum(&ip[..header], 0), 0xffff, "the checksum of the IPv4 header");
        let l4 = &ip[header..];
        let addr = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
        let packet = Self {
            from: (addr(12), port(0)),
            to: (addr(16), port(2)),
            proto: ip[9],
            flags: if ip[9] == TCP { l4[13] } else { 0 },
            ttl: ip[8],
            options: (ip[0] & 15) - 5,
            fragment: u16::from_be_bytes([ip[6], ip[7]]),
            has_checksum: ip[9] != UDP || port(6) != 0,
        };
        if packet.has_checksum {
            assert_eq!(sum(l4, packet.pseudo(l4.len())), 0xffff, "the transport checksum of {packet:?}");
        }
        packet
    }

    fn pseudo(&self, len: usize) -> u32 {
        let words = [self.from.0.octets(), self.to.0.octets()].concat();
        u32::from(sum(&words, u32::from(self.proto) + len as u32))
    }
}

/// RFC 1071, not complemented.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A program that is attached to an interface.
struct Hook {
    program: OwnedFd,
    ifindex: u32,
}

impl Hook {
    fn new(lab: &Lab, role: &str, interface: &str) -> Self {
        let ifindex = ifindex(interface);
        let path = lab.pin_root.join(format!("links/{role}_{ifindex}_ingress"));
        let id = Link::open(path).and_then(|link| link.info()).expect("the pinned link").prog_id;
        Self { program: libbpf_rs::Program::fd_from_id(id).expect("the program"), ifindex }
    }

    fn run_bytes(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        // struct __sk_buff: what it says of the packet besides its bytes is the device.
        let mut context = [0u8; 192];
        context[40..44].copy_from_slice(&self.ifindex.to_ne_bytes());
        let mut out = vec![0; 2048];
        let mut opts = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
            data_in: frame.as_ptr().cast(),
            data_size_in: frame.len() as u32,
            data_out: out.as_mut_ptr().cast(),
            data_size_out: out.len() as u32,
            ctx_in: context.as_ptr().cast(),
            ctx_size_in: context.len() as u32,
            repeat: 1,
            ..Default::default()
        };
        // SAFETY: every pointer is to a live buffer of the size given beside it.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &mut opts) };
        assert_eq!(result, 0, "test run: {}", std::io::Error::last_os_error());
        out.truncate(opts.data_size_out as usize);
        (opts.retval as i32, out)
    }

    fn run(&self, packet: Packet) -> (i32, Packet) {
        let (verdict, out) = self.run_bytes(&packet.encode());
        (verdict, Packet::decode(&out))
    }
}

fn drops(lb: &LoadBalancer, reason: &str) -> u64 {
    lb.status().expect("status").drops.get(reason).copied().unwrap_or(0)
}

#[test]
#[ignore = "needs BPF"]
fn each_packet_becomes_what_it_should() {
    Lab::run(|lab| {
        let client = (CLIENT, 4242);
        let pod_b = (POD_B, 4242);
        let frontends = [
            tcp(LB_IP, 80, &[(POD_A, 8080)]),
            tcp(LB_IP, 8080, &[(POD_A, 8080)]),
            tcp(LB_IP, 81, &[]),
            udp(LB_IP, 53, &[(POD_A, 5353)]),
            tcp(CLUSTER_IP, 80, &[(REMOTE, 8080)]),
            tcp(ANY, 30080, &[(POD_A, 8080)]),
        ];
        let lb = lab.balancer(&frontends);
        let (uplink, pod) = (Hook::new(lab, "uplink", "eth0"), Hook::new(lab, "workload", "calib"));
        let local = (POD_A, 8080);
        let syn = |from, to| Packet::tcp(SYN, from, to);
        let options = Packet { options: 3, ..syn((CLIENT, 4300), (LB_IP, 80)) };
        let dns = Packet::udp(client, (LB_IP, 53));
        let no_check = Packet { has_checksum: false, ..Packet::udp((CLIENT, 4243), (LB_IP, 53)) };
        let reply = Packet::tcp(SYN | ACK, local, client);
        let mid_flow = Packet::tcp(ACK, (CLIENT, 4301), (LB_IP, 80));
        // (what, where, packet in, verdict, packet out); the rows are one history.
        let rows: &[(&str, &Hook, Packet, i32, Packet)] = &[
            (
                "outside to a local backend",
                &uplink,
                syn(client, (LB_IP, 80)),
                REDIRECT,
                syn(client, (LB_IP, 80)).became(client, local),
            ),
            ("its reply, at the pod's interface", &pod, reply, REDIRECT, reply.became((LB_IP, 80), client)),
            (
                "again: the same backend",
                &uplink,
                syn(client, (LB_IP, 80)),
                REDIRECT,
                syn(client, (LB_IP, 80)).became(client, local),
            ),
            ("IPv4 options", &uplink, options, REDIRECT, options.became((CLIENT, 4300), local)),
            (
                "a connection opened elsewhere goes on by the Maglev table",
                &uplink,
                mid_flow,
                REDIRECT,
                mid_flow.became((CLIENT, 4301), local),
            ),
            ("UDP", &uplink, dns, REDIRECT, dns.became(client, (POD_A, 5353))),
            (
                "UDP without a checksum stays without",
                &uplink,
                no_check,
                REDIRECT,
                no_check.became((CLIENT, 4243), (POD_A, 5353)),
            ),
            (
                "a pod to a remote backend keeps its address",
                &pod,
                syn(pod_b, (CLUSTER_IP, 80)),
                REDIRECT,
                syn(pod_b, (CLUSTER_IP, 80)).became(pod_b, (REMOTE, 8080)),
            ),
            (
                "the remote backend's reply to the pod",
                &uplink,
                Packet::tcp(ACK, (REMOTE, 8080), pod_b),
                REDIRECT,
                Packet::tcp(ACK, (REMOTE, 8080), pod_b).became((CLUSTER_IP, 80), pod_b),
            ),
            (
                "NodePort on the node's address",
                &uplink,
                syn((CLIENT, 4302), (NODE, 30080)),
                REDIRECT,
                syn((CLIENT, 4302), (NODE, 30080)).became((CLIENT, 4302), local),
            ),
            (
                "NodePort on no address of the node",
                &uplink,
                syn(client, (REMOTE_2, 30080)),
                PASS,
                syn(client, (REMOTE_2, 30080)),
            ),
            ("no endpoints", &uplink, syn(client, (LB_IP, 81)), DROP, syn(client, (LB_IP, 81))),
            ("a port without a service", &uplink, syn(client, (LB_IP, 82)), PASS, syn(client, (LB_IP, 82))),
            ("no service at all", &pod, syn(pod_b, (REMOTE, 80)), PASS, syn(pod_b, (REMOTE, 80))),
            ("a fragment", &uplink, Packet { fragment: 0x2000, ..dns }, PASS, Packet { fragment: 0x2000, ..dns }),
            (
                "a packet at the end of its life",
                &uplink,
                Packet { ttl: 1, ..mid_flow },
                DROP,
                Packet { ttl: 1, ..mid_flow },
            ),
        ];
        for (what, hook, packet, verdict, out) in rows {
            assert_eq!(hook.run(*packet), (*verdict, *out), "{what}");
        }
        assert_eq!((drops(&lb, "no_backend"), drops(&lb, "ttl")), (1, 1));

        // The client's port is taken towards this backend by its connection to the other frontend.
        let (verdict, out) = uplink.run(syn(client, (LB_IP, 8080)));
        assert_eq!((verdict, out.from.0, out.to), (REDIRECT, CLIENT, local));
        assert!((20_000..30_000).contains(&out.from.1), "{out:?}");
        let reply = Packet::tcp(SYN | ACK, local, out.from);
        assert_eq!(pod.run(reply), (REDIRECT, reply.became((LB_IP, 8080), client)));
    });
}

#[test]
#[ignore = "needs BPF"]
fn what_is_no_ipv4_of_ours_passes_unchanged() {
    Lab::run(|lab| {
        let _lb = lab.balancer(&[tcp(LB_IP, 80, &[(POD_A, 8080)])]);
        let hook = Hook::new(lab, "uplink", "eth0");
        let good = Packet::tcp(SYN, (CLIENT, 1), (LB_IP, 80)).encode();
        let with = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        let mut ipv6 = good.clone();
        ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
        let mut arp = good.clone();
        arp[12..14].copy_from_slice(&[8, 6]);
        for (what, frame) in [
            ("IPv6", ipv6),
            ("ARP", arp),
            ("a version that contradicts the Ethernet type", with(ETHER_LEN, 0x65)),
            ("a header length below the minimum", with(ETHER_LEN, 0x44)),
            ("ICMP", with(ETHER_LEN + 9, 1)),
            ("SCTP", with(ETHER_LEN + 9, 132)),
            ("a header length beyond the packet", with(ETHER_LEN, 0x4f)),
            ("a truncated TCP header", good[..ETHER_LEN + 20 + 12].to_vec()),
        ] {
            assert_eq!(hook.run_bytes(&frame), (PASS, frame), "{what}");
        }
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_remote_backend_needs_a_source_address() {
    Lab::run(|lab| {
        let mut lb = lab.balancer(&[tcp(LB_IP, 80, &[(REMOTE, 8080)])]);
        let hook = Hook::new(lab, "uplink", "eth0");
        let syn = Packet::tcp(SYN, (CLIENT, 4242), (LB_IP, 80));
        lb.set_node_addresses(&[]).expect("no addresses");
        assert_eq!(hook.run(syn), (DROP, syn));
        assert_eq!(drops(&lb, "no_snat_address"), 1);
        lb.set_node_addresses(&[NODE]).expect("one address");
        let (verdict, out) = hook.run(syn);
        assert_eq!((verdict, out.from.0, out.to), (REDIRECT, NODE, (REMOTE, 8080)));
        let reply = Packet::tcp(SYN | ACK, (REMOTE, 8080), out.from);
        assert_eq!(hook.run(reply), (REDIRECT, reply.became((LB_IP, 80), (CLIENT, 4242))));
    });
}

#[test]
#[ignore = "needs BPF"]
fn source_ports_are_never_shared_by_two_connections() {
    Lab::run(|lab| {
        let lb = lab.balancer(&[tcp(LB_IP, 80, &[(REMOTE, 8080)])]);
        let hook = Hook::new(lab, "uplink", "eth0");
        let mut ports = std::collections::BTreeSet::new();
        for port in 1..=5000 {
            let (verdict, out) = hook.run(Packet::tcp(SYN, (CLIENT, port), (LB_IP, 80)));
            if verdict == REDIRECT {
                assert!(ports.insert(out.from.1), "port {} twice", out.from.1);
            }
        }
        // Half of the range of this backend is taken: 32 tries find a free port for practically all.
        assert!(ports.len() > 4990, "{} of 5000", ports.len());
        assert_eq!(drops(&lb, "no_snat_port"), 5000 - ports.len() as u64);
    });
}

#[test]
#[ignore = "needs BPF"]
fn half_a_pair_counts_as_missing_and_is_made_whole() {
    Lab::run(|lab| {
        let _lb = lab.balancer(&[tcp(LB_IP, 80, &[(REMOTE, 8080)])]);
        let hook = Hook::new(lab, "uplink", "eth0");
        let conntrack = MapHandle::from_pinned_path(lab.pin_root.join("v1/conntrack")).expect("the pinned map");
        let forward = Packet::tcp(ACK, (CLIENT, 4242), (LB_IP, 80));
        let (_, out) = hook.run(Packet { flags: SYN, ..forward });
        let reply = Packet::tcp(ACK, (REMOTE, 8080), out.from);
        for (what, lost, by) in [("reply", reply, forward), ("request", forward, reply)] {
            conntrack.delete(&tuple(lost)).unwrap_or_else(|err| panic!("the {what}'s half: {err}"));
            // The half that is left looks for the other once a second.
            std::thread::sleep(std::time::Duration::from_millis(1100));
            hook.run(by);
            let found = conntrack.lookup(&tuple(lost), MapFlags::ANY).expect("lookup");
            assert!(found.is_some(), "the {what}'s half was not made again");
            assert_eq!(hook.run(forward), (REDIRECT, forward.became(out.from, out.to)), "the same source port");
            assert_eq!(hook.run(reply), (REDIRECT, reply.became((LB_IP, 80), (CLIENT, 4242))));
        }
        // A new connection does not wait for that.
        conntrack.delete(&tuple(reply)).expect("delete the reply's half");
        hook.run(Packet { flags: SYN, ..forward });
        assert_eq!(hook.run(reply), (REDIRECT, reply.became((LB_IP, 80), (CLIENT, 4242))));
    });
}

/// The key of a packet in the conntrack map.
fn tuple(packet: Packet) -> Vec<u8> {
    let mut key = [packet.from.0.octets(), packet.to.0.octets()].concat();
    key.extend(packet.from.1.to_be_bytes());
    key.extend(packet.to.1.to_be_bytes());
    key.extend([packet.proto, 0, 0, 0]);
    key
}
