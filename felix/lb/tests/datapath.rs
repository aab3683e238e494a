//! Real sockets through the programs, in namespaces.

mod lab;

use std::net::Ipv4Addr;

use felix_lb::{Config, LoadBalancer};
use lab::*;
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LARGE: usize = 8 << 20;

#[test]
#[ignore = "needs BPF"]
fn a_pod_reaches_a_backend_of_its_node_and_keeps_its_address() {
    Lab::run(|lab| {
        let seen = tcp_echo(&lab.pod_b, POD_B, 8080);
        let _lb = lab.balancer(&[tcp(CLUSTER_IP, 80, &[(POD_B, 8080)])]);
        lab.pod_a.run(|| {
            let mut stream = connect(ANY, CLUSTER_IP, 80).expect("connect");
            exchange(&mut stream, LARGE);
        });
        assert_eq!(next_seen(&seen).0, POD_A);
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_pod_reaches_a_remote_backend_and_keeps_its_address() {
    Lab::run(|lab| {
        let seen = tcp_echo(&lab.fabric, REMOTE, 8080);
        let seen_udp = udp_echo(&lab.fabric, REMOTE, 53);
        let _lb = lab.balancer(&[tcp(CLUSTER_IP, 80, &[(REMOTE, 8080)]), udp(CLUSTER_IP, 53, &[(REMOTE, 53)])]);
        lab.pod_a.run(|| {
            let mut stream = connect(ANY, CLUSTER_IP, 80).expect("connect");
            exchange(&mut stream, LARGE);
            assert!(is_from(udp_ask(ANY, CLUSTER_IP, 53).expect("an answer"), CLUSTER_IP, 53));
        });
        assert_eq!(next_seen(&seen).0, POD_A);
        assert_eq!(next_seen(&seen_udp).0, POD_A);
    });
}

#[test]
#[ignore = "needs BPF"]
fn outside_reaches_a_local_backend_which_sees_the_client() {
    Lab::run(|lab| {
        let seen = tcp_echo(&lab.pod_a, POD_A, 8080);
        let seen_udp = udp_echo(&lab.pod_a, POD_A, 53);
        let _lb = lab.balancer(&[tcp(LB_IP, 80, &[(POD_A, 8080)]), udp(LB_IP, 53, &[(POD_A, 53)])]);
        lab.fabric.run(|| {
            let mut stream = connect(CLIENT, LB_IP, 80).expect("connect");
            exchange(&mut stream, LARGE);
            assert!(is_from(udp_ask(CLIENT, LB_IP, 53).expect("an answer"), LB_IP, 53));
        });
        assert_eq!(next_seen(&seen).0, CLIENT);
        assert_eq!(next_seen(&seen_udp).0, CLIENT);
    });
}

#[test]
#[ignore = "needs BPF"]
fn outside_reaches_a_remote_backend_through_the_nodes_address() {
    Lab::run(|lab| {
        let seen = tcp_echo(&lab.fabric, REMOTE, 8080);
        let seen_udp = udp_echo(&lab.fabric, REMOTE, 53);
        let lb = lab.balancer(&[tcp(LB_IP, 80, &[(REMOTE, 8080)]), udp(LB_IP, 53, &[(REMOTE, 53)])]);
        lab.fabric.run(|| {
            for _ in 0..20 {
                let mut stream = connect(CLIENT, LB_IP, 80).expect("connect");
                exchange(&mut stream, 1000);
            }
            let mut stream = connect(CLIENT, LB_IP, 80).expect("connect");
            exchange(&mut stream, LARGE);
            assert!(is_from(udp_ask(CLIENT, LB_IP, 53).expect("an answer"), LB_IP, 53));
        });
        for (addr, port) in [next_seen(&seen), next_seen(&seen), next_seen(&seen_udp)] {
            assert_eq!(addr, NODE);
            assert!((20_000..30_000).contains(&port), "source port {port}");
        }
        let status = lb.status().expect("status");
        assert_eq!(status.services[&format!("default/{LB_IP}-80")].flows, 21);
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_node_port_answers_on_the_nodes_address() {
    Lab::run(|lab| {
        let local = tcp_echo(&lab.pod_a, POD_A, 8080);
        let remote = tcp_echo(&lab.fabric, REMOTE, 8080);
        let _lb = lab.balancer(&[tcp(ANY, 30080, &[(POD_A, 8080)]), tcp(ANY, 30081, &[(REMOTE, 8080)])]);
        lab.fabric.run(|| {
            for port in [30080, 30081] {
                exchange(&mut connect(CLIENT, NODE, port).expect("connect"), 100_000);
            }
        });
        assert_eq!(next_seen(&local).0, CLIENT);
        assert_eq!(next_seen(&remote).0, NODE);
        // From a pod of the node too.
        lab.pod_b.run(|| exchange(&mut connect(ANY, NODE, 30080).expect("connect"), 100_000));
        assert_eq!(next_seen(&local).0, POD_B);
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_pod_reaches_itself_by_its_service() {
    Lab::run(|lab| {
        let seen = tcp_echo(&lab.pod_a, POD_A, 8080);
        let _lb = lab.balancer(&[tcp(CLUSTER_IP, 80, &[(POD_A, 8080)])]);
        lab.pod_a.run(|| exchange(&mut connect(ANY, CLUSTER_IP, 80).expect("connect"), 100_000));
        assert_eq!(next_seen(&seen).0, Ipv4Addr::new(169, 254, 1, 2));
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_backend_in_the_hosts_network_answers_pods_and_outside() {
    Lab::run(|lab| {
        let seen = tcp_echo_here(NODE, 6443);
        let _lb = lab.balancer(&[tcp(CLUSTER_IP, 443, &[(NODE, 6443)]), tcp(LB_IP, 443, &[(NODE, 6443)])]);
        lab.pod_a.run(|| exchange(&mut connect(ANY, CLUSTER_IP, 443).expect("connect"), 100_000));
        assert_eq!(next_seen(&seen).0, POD_A);
        lab.fabric.run(|| exchange(&mut connect(CLIENT, LB_IP, 443).expect("connect"), 100_000));
        assert_eq!(next_seen(&seen).0, CLIENT);
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_process_of_the_node_talks_to_the_backend_and_sees_the_service() {
    Lab::run(|lab| {
        let seen = tcp_echo(&lab.pod_a, POD_A, 8080);
        let seen_udp = udp_echo(&lab.pod_a, POD_A, 53);
        let _lb = lab.balancer(&[
            tcp(CLUSTER_IP, 80, &[(POD_A, 8080)]),
            tcp(CLUSTER_IP, 81, &[]),
            tcp(ANY, 30080, &[(POD_A, 8080)]),
            udp(CLUSTER_IP, 53, &[(POD_A, 53)]),
        ]);
        assert!(lab.in_cgroup(|| {
            let mut stream = connect(ANY, CLUSTER_IP, 80).expect("connect");
            exchange(&mut stream, 100_000);
            is_from(stream.peer_addr().expect("a peer"), CLUSTER_IP, 80)
        }));
        assert_eq!(next_seen(&seen).0, NODE);
        assert!(lab.in_cgroup(|| connect(ANY, NODE, 30080).is_ok()), "its own NodePort");
        assert!(lab.in_cgroup(|| is_from(udp_ask(ANY, CLUSTER_IP, 53).expect("an answer"), CLUSTER_IP, 53)));
        assert_eq!(next_seen(&seen_udp).0, NODE);
        assert!(lab.in_cgroup(|| {
            connect(ANY, CLUSTER_IP, 81).is_err_and(|err| err.kind() == std::io::ErrorKind::ConnectionRefused)
        }));
        assert!(connect(ANY, CLUSTER_IP, 80).is_err(), "a process outside of the cgroup has no service");
    });
}

#[test]
#[ignore = "needs BPF"]
fn connections_outlive_the_process_and_the_next_one_finds_everything_in_place() {
    Lab::run(|lab| {
        tcp_echo(&lab.fabric, REMOTE, 8080);
        tcp_echo(&lab.pod_a, POD_A, 8080);
        let frontends = [tcp(LB_IP, 80, &[(REMOTE, 8080), (POD_A, 8080)])];
        let lb = lab.balancer(&frontends);
        let mut streams: Vec<_> =
            lab.fabric.run(|| (0..20).map(|_| connect(CLIENT, LB_IP, 80).expect("connect")).collect());
        // What a kill leaves: nothing is detached or removed.
        drop(lb);
        streams.iter_mut().for_each(|stream| exchange(stream, 10_000));
        lab.fabric.run(|| exchange(&mut connect(CLIENT, LB_IP, 80).expect("connect"), 1000));

        let mut lb = LoadBalancer::open(lab.config()).expect("open again");
        assert_eq!(lb.interfaces().count(), 3, "links are adopted");
        streams.iter_mut().for_each(|stream| exchange(stream, 10_000));
        lb.set_node_addresses(&[NODE]).expect("set the node's address");
        lb.attach_uplink(ifindex("eth0"), "eth0").expect("attach");
        let applied = lb.apply(&frontends).expect("apply");
        assert_eq!((applied.frontends_written, applied.frontends_deleted, applied.sets_written), (0, 0, 0));
        streams.iter_mut().for_each(|stream| exchange(stream, 10_000));
        let status = lb.status().expect("status");
        assert_eq!(status.services[&format!("default/{LB_IP}-80")].flows, 21, "counters go on");
        assert!(lb.verify().expect("verify").served.contains(&LB_IP.into()));
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_removed_backend_keeps_its_connections_and_gets_no_new_ones() {
    Lab::run(|lab| {
        let a = tcp_echo(&lab.pod_a, POD_A, 8080);
        let b = tcp_echo(&lab.pod_b, POD_B, 8080);
        let udp_a = udp_echo(&lab.pod_a, POD_A, 53);
        let udp_b = udp_echo(&lab.pod_b, POD_B, 53);
        let both = [(POD_A, 8080), (POD_B, 8080)];
        let mut lb = lab.balancer(&[tcp(LB_IP, 80, &both), udp(LB_IP, 53, &[(POD_A, 53), (POD_B, 53)])]);
        let connect_all = |lab: &Lab, n| {
            lab.fabric.run(move || (0..n).map(|_| connect(CLIENT, LB_IP, 80).expect("connect")).collect())
        };
        let mut streams: Vec<_> = connect_all(lab, 40);
        streams.iter_mut().for_each(|stream| exchange(stream, 10));
        let (to_a, to_b) = (a.try_iter().count(), b.try_iter().count());
        assert!(to_a >= 5 && to_b >= 5, "{to_a} and {to_b} of 40 connections");
        let datagrams = lab.fabric.run(|| {
            let sockets: Vec<_> = (0..20)
                .map(|_| {
                    let socket = std::net::UdpSocket::bind((CLIENT, 0)).expect("bind");
                    socket.set_read_timeout(Some(TIMEOUT)).expect("set a timeout");
                    socket.connect((LB_IP, 53)).expect("connect");
                    socket
                })
                .collect();
            ask_all(&sockets);
            sockets
        });
        assert!(udp_a.try_iter().count() > 0 && udp_b.try_iter().count() > 0);

        lb.apply(&[tcp(LB_IP, 80, &both[..1]), udp(LB_IP, 53, &[(POD_A, 53)])]).expect("apply");
        streams.iter_mut().for_each(|stream| exchange(stream, 10_000));
        let mut new: Vec<_> = connect_all(lab, 20);
        new.iter_mut().for_each(|stream| exchange(stream, 10));
        assert_eq!((a.try_iter().count(), b.try_iter().count()), (20, 0));
        ask_all(&datagrams);
        assert_eq!(
            (udp_a.try_iter().count(), udp_b.try_iter().count()),
            (20, 0),
            "datagrams have no connection to keep"
        );
    });
}

fn ask_all(sockets: &[std::net::UdpSocket]) {
    for socket in sockets {
        socket.send(b"hello").expect("send");
        socket.recv(&mut [0; 16]).expect("an answer");
    }
}

#[test]
#[ignore = "needs BPF"]
fn local_traffic_policies_use_backends_of_this_node_only() {
    Lab::run(|lab| {
        let local = tcp_echo(&lab.pod_a, POD_A, 8080);
        tcp_echo(&lab.fabric, REMOTE, 8080);
        let both = [(POD_A, 8080), (REMOTE, 8080)];
        let mut external = tcp(LB_IP, 80, &both);
        external.external_local = true;
        let mut none = tcp(LB_IP, 81, &[(REMOTE, 8080)]);
        none.external_local = true;
        let lb = lab.balancer(&[external, none]);
        lab.fabric.run(|| {
            for _ in 0..20 {
                exchange(&mut connect(CLIENT, LB_IP, 80).expect("connect"), 10);
            }
            assert!(connect(CLIENT, LB_IP, 81).is_err());
        });
        assert_eq!(local.try_iter().count(), 20);
        let drops = lb.status().expect("status").services[&format!("default/{LB_IP}-81")].drops.clone();
        assert!(drops["no_backend"] > 0);
        // The policy is for outside traffic: a pod uses any.
        lab.pod_b.run(|| exchange(&mut connect(ANY, LB_IP, 81).expect("connect"), 10));
    });
}

#[test]
#[ignore = "needs BPF"]
fn verify_sees_and_repairs_what_others_break() {
    Lab::run(|lab| {
        let mut lb = lab.balancer(&[tcp(LB_IP, 80, &[(POD_A, 8080), (POD_B, 8080)])]);
        assert!(lb.verify().expect("verify").served.contains(&LB_IP.into()));
        let pins = lab.pin_root.join("v1");
        let frontends = MapHandle::from_pinned_path(pins.join("frontends")).expect("the pinned map");
        frontends.delete(&[10, 96, 200, 1, 0, 80, 6, 0]).expect("delete the frontend");
        let found = lb.verify().expect("verify");
        assert!(found.served.is_empty() && found.faults.len() == 1, "{found:?}");
        let found = lb.verify().expect("verify");
        assert!(found.served.contains(&LB_IP.into()) && found.faults.is_empty(), "{found:?}");

        // The first set lies at the start of the slots.
        let slots = MapHandle::from_pinned_path(pins.join("slots")).expect("the pinned map");
        slots.update(&[0; 4], &[1, 2, 3, 4, 5, 6, 7, 8], MapFlags::ANY).expect("damage a backend");
        let found = lb.verify().expect("verify");
        assert!(found.served.is_empty() && found.faults.len() == 1, "{found:?}");
        let found = lb.verify().expect("verify");
        assert!(found.served.contains(&LB_IP.into()) && found.faults.is_empty(), "{found:?}");

        let link = lab.pin_root.join(format!("links/uplink_{}_ingress", ifindex("eth0")));
        Link::open(link).and_then(|link| link.detach()).expect("detach");
        let found = lb.verify().expect("verify");
        assert!(found.served.is_empty() && found.faults.len() == 1, "{found:?}");
        assert!(lb.verify().expect("verify").served.contains(&LB_IP.into()), "attached again");
    });
}

#[test]
#[ignore = "needs BPF"]
fn hooks_that_are_not_allowed_are_not_used() {
    Lab::run(|lab| {
        tcp_echo(&lab.pod_a, POD_A, 8080);
        let frontends = [tcp(CLUSTER_IP, 80, &[(POD_A, 8080)])];
        drop(lab.balancer(&frontends));
        // What an earlier process attached to other hooks goes.
        for (hooks, by_socket, by_tc) in [("socket", true, false), ("tc", false, true), ("xdp,tc,socket", true, true)] {
            let config = Config { hooks: hooks.parse().expect("hooks"), ..lab.config() };
            let mut lb = LoadBalancer::open(config).expect("open");
            for pod in ["calia", "calib"] {
                lb.attach_workload(ifindex(pod), pod).expect("attach");
            }
            assert_eq!(lab.in_cgroup(|| connect(ANY, CLUSTER_IP, 80).is_ok()), by_socket, "socket, {hooks}");
            assert_eq!(lab.pod_b.run(|| connect(ANY, CLUSTER_IP, 80).is_ok()), by_tc, "tc, {hooks}");
            assert!(lb.verify().expect("verify").faults.is_empty());
            let active: Vec<_> = lb.status().expect("status").hooks.iter().map(|hook| hook.is_active).collect();
            assert_eq!(active, [by_socket, by_tc, false]);
        }
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_pin_directory_off_bpffs_is_refused_with_what_to_do() {
    Lab::run(|lab| {
        let config = Config { pin_root: std::env::temp_dir().join("felix-lb-nowhere"), ..lab.config() };
        let error = LoadBalancer::open(config.clone()).err().expect("an error").to_string();
        assert!(error.contains("mount -t bpf bpf") && error.contains("--bpf-pin-root"), "{error}");
        assert!(!config.pin_root.exists(), "nothing is left behind");
        let config = Config { cgroup: Some("/proc/self".into()), ..lab.config() };
        assert!(LoadBalancer::open(config).is_err_and(|error| error.to_string().contains("/proc/self")));
    });
}

#[test]
#[ignore = "needs BPF"]
fn an_interface_that_goes_takes_its_pins_along() {
    Lab::run(|lab| {
        let mut lb = lab.balancer(&[tcp(LB_IP, 80, &[(POD_A, 8080)])]);
        run("ip link del calib");
        let found = lb.verify().expect("verify");
        assert!(found.faults.is_empty() && found.served.contains(&LB_IP.into()), "a pod's end is no fault: {found:?}");
        drop(lb);
        let lb = LoadBalancer::open(lab.config()).expect("open again");
        assert_eq!(lb.interfaces().count(), 2);
        let pins = std::fs::read_dir(lab.pin_root.join("links")).expect("the links").count();
        assert_eq!(pins, 2 * 2 + 4, "two programs on each interface, four on the cgroup");
    });
}

#[test]
#[ignore = "needs BPF"]
fn a_link_on_the_same_number_in_another_namespace_is_not_ours() {
    Lab::run(|lab| {
        drop(lab.balancer(&[]));
        let uplink = ifindex("eth0");
        // The node starts anew, while somebody holds its old namespace.
        let _old = std::fs::File::open("/proc/thread-self/ns/net").expect("the old namespace");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare a network namespace");
        run(&format!("ip link add eth0 index {uplink} type veth peer name other"));
        let mut lb = LoadBalancer::open(lab.config()).expect("open");
        assert_eq!(lb.interfaces().count(), 0);
        lb.attach_uplink(uplink, "eth0").expect("attach");
        assert!(lb.verify().expect("verify").faults.is_empty());
        drop(lb);
        assert_eq!(LoadBalancer::open(lab.config()).expect("open").interfaces().count(), 1);
    });
}
