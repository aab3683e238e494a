//! What we write for collectors and files, read by programs of others: BMP by tshark, MRT by bgpdump. Where the program is not
//! installed, its test says so and passes.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bgp_proto::af::{Family, Prefix};
use bgp_proto::bmp::{self, Down, Termination};
use bgp_proto::mrt::{self, Path};
use bgp_proto::wire::attribute::Attributes;
use bgp_proto::wire::open::{Capabilities, Open};
use bgp_proto::wire::update::write_end_of_rib;
use bgp_proto::wire::{Notification, iana};

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn write(name: &str, octets: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::write(&path, octets).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a program prints; `None`: it is not there.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(_) => {
            eprintln!("skipped: {program} is not installed");
            None
        }
    }
}

/// A capture (pcap, raw IP) in which each message is a TCP segment to this port.
fn capture(port: u16, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0002_0004, 0, 0, 65535, 101] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    let mut sequence = 1u32;
    for message in messages {
        let len = 40 + message.len() as u32;
        [0, 0, len, len].iter().for_each(|w: &u32| out.extend_from_slice(&w.to_be_bytes()));
        let [a, b] = (len as u16).to_be_bytes();
        out.extend_from_slice(&[0x45, 0, a, b, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2]);
        out.extend_from_slice(&40_000u16.to_be_bytes());
        out.extend_from_slice(&port.to_be_bytes());
        out.extend_from_slice(&sequence.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        out.extend_from_slice(message);
        sequence += message.len() as u32;
    }
    out
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

#[test]
fn tshark_reads_what_collectors_are_told() {
    let capabilities = Capabilities { ipv4: true, ipv6: true, four_octet_as: true, ..Capabilities::default() };
    let open = Open { asn: 65001, hold_time: 90, router_id: [10, 0, 0, 1].into(), capabilities };
    let open = written(|out| open.write(out));
    let at = Duration::new(1_700_000_000, 5_000);
    let peer = |address: &str| bmp::Peer {
        address: address.parse().unwrap(),
        asn: 65001,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        two_octet_as: false,
    };
    let (v4, v6) = (peer("192.0.2.1"), peer("2001:db8::1"));
    let notification = written(|out| Notification::cease_with_text(iana::ADMINISTRATIVE_SHUTDOWN, "bye").write(out));
    let messages = [
        written(|out| bmp::write_initiation(out, "Tortie bgpd", "node-1")),
        written(|out| bmp::write_peer_up(out, &v4, at, ([192, 0, 2, 9].into(), 179), 40001, [&open, &open])),
        written(|out| bmp::write_route_monitoring(out, &v6, at, &written(|u| write_end_of_rib(u, Family::Ipv6)))),
        written(|out| bmp::write_statistics(out, &v4, at, &[(Family::Ipv4, 7), (Family::Ipv6, 9)])),
        written(|out| bmp::write_peer_down(out, &v4, at, Down::RemoteNotification(&notification))),
        written(|out| bmp::write_peer_down(out, &v4, at, Down::Local(0))),
        written(|out| bmp::write_termination(out, Termination::OutOfResources)),
    ];
    let file = Scratch::write("bmp", &capture(11019, &messages));
    let path = file.0.to_str().unwrap();
    let decode = ["-r", path, "-d", "tcp.port==11019,bmp", "-o", "tcp.check_checksum:FALSE", "-V"];
    let Some(text) = printed("tshark", &decode) else { return };
    for want in [
        "Type: Initiation Message (4)",
        "Type: Peer Up Notification (3)",
        "Type: Route Monitoring (0)",
        "Type: Statistics Report (1)",
        "Type: Peer Down Notification (2)",
        "Type: Termination Message (5)",
        "Information: Tortie bgpd",
        "Information: node-1",
        "Address: 192.0.2.1",
        "Address: 2001:db8::1",
        "Local Port: 179",
        "Remote Port: 40001",
        "Reason: Remote System, Notification (3)",
        "Major error Code: Cease (6)",
        "Reason: Out of resources (2)",
    ] {
        assert!(text.contains(want), "{want} is not in\n{text}");
    }
    assert_eq!(text.matches("Type: OPEN Message (1)").count(), 2, "both OPENs");
    for wrong in ["Malformed", "Unknown", "Expert Info (Error"] {
        assert!(!text.contains(wrong), "{wrong} in\n{text}");
    }
}

#[test]
fn bgpdump_reads_the_table() {
    let prefix = |text: &str| {
        let (address, len) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    };
    let path = |peer: u16, next_hop: &str| {
        let mut attributes = Attributes::originated(200, &[0xfde9_0064], &[]);
        attributes.prepend(&[65001, 70000]);
        let attributes = Attributes { next_hop: next_hop.parse().unwrap(), med: Some(5), ..attributes };
        Path { peer, originated: 1_700_000_000, path_id: 0, attributes }
    };
    let peers = [
        mrt::Peer { router_id: [10, 0, 0, 1].into(), address: [192, 0, 2, 1].into(), asn: 65001 },
        mrt::Peer { router_id: [10, 0, 0, 2].into(), address: "2001:db8::2".parse().unwrap(), asn: 70000 },
    ];
    let file = written(|out| {
        mrt::write_peer_index(out, 1_700_000_001, [10, 0, 0, 9].into(), "", &peers);
        mrt::write_rib(out, 1_700_000_001, 0, prefix("10.1.0.0/17"), &[path(0, "192.0.2.1"), path(1, "192.0.2.7")]);
        mrt::write_rib(out, 1_700_000_001, 1, prefix("2001:db8:1::/48"), &[path(1, "2001:db8::2")]);
    });
    let file = Scratch::write("mrt", &file);
    let Some(text) = printed("bgpdump", &["-m", "-v", file.0.to_str().unwrap()]) else { return };
    let lines: Vec<String> = text.lines().map(|l| l.split('|').take(12).collect::<Vec<_>>().join("|")).collect();
    let rest = "|65001 70000|IGP|";
    assert_eq!(
        lines,
        [
            format!("TABLE_DUMP2|1700000001|B|192.0.2.1|65001|10.1.0.0/17{rest}192.0.2.1|200|5|65001:100"),
            format!("TABLE_DUMP2|1700000001|B|2001:db8::2|70000|10.1.0.0/17{rest}192.0.2.7|200|5|65001:100"),
            format!("TABLE_DUMP2|1700000001|B|2001:db8::2|70000|2001:db8:1::/48{rest}2001:db8::2|200|5|65001:100"),
        ]
    );
}
