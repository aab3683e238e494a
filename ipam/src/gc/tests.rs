use std::collections::BTreeMap;

use api::key::AffinityOwner;
use proptest::prelude::*;

use super::*;
use crate::block::Assignee;
use crate::pool::Reservations;

const T0: i64 = 1_800_000_000;

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(T0 + minutes * 60).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn host(node: &str) -> AffinityOwner {
    AffinityOwner::Host(node.into())
}

fn name(text: &str) -> Name {
    ("test".into(), text.into())
}

fn block(cidr: &str, owner: &AffinityOwner) -> Block {
    Block::new(net(cidr), owner, at(-1000)).unwrap()
}

fn assign(block: &mut Block, address: &str, handle: &str, attributes: &[(&str, &str)]) {
    let attributes: BTreeMap<String, String> = attributes.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    block.assign_address(ip(address), Assignee { handle, attributes: &attributes }, None).unwrap();
}

/// Node a, with a block in which a pod has the first address.
fn lab() -> (Collector, Block) {
    let mut collector = Collector::default();
    collector.put_node("a");
    let mut block = block("10.0.0.0/30", &host("a"));
    assign(&mut block, "10.0.0.0", "net.c1", &[("pod", "p"), ("namespace", "test"), ("node", "a")]);
    collector.put_block(&block);
    (collector, block)
}

fn words(releases: &[Release]) -> Vec<String> {
    let word = |r: &Release| match r {
        Release::Addresses { handle, addresses, .. } => {
            format!("{handle} {:?}", addresses.iter().map(|(ip, _)| ip).collect::<Vec<_>>())
        }
        Release::Block { cidr, must_be_empty, .. } => format!("block {cidr} {must_be_empty}"),
        Release::Affinity { owner, cidr, .. } => format!("affinity {} {cidr}", owner.to_block_field()),
        Release::Record { handle, .. } => format!("record {handle}"),
    };
    releases.iter().map(word).collect()
}

#[test]
fn a_leaked_address_goes_after_the_grace_period_and_two_observations() {
    let (mut collector, _) = lab();
    assert_eq!(collector.observe(at(0)), []);
    let (subject, candidate) = collector.candidates().next().unwrap();
    assert_eq!(*subject, Subject::Handle("net.c1".into()));
    assert_eq!((candidate.since, candidate.due), (at(0), at(15)));
    assert_eq!(candidate.reason.to_string(), "pod test/p has no workload endpoint");
    assert_eq!(collector.next_due(), Some(at(15)));
    assert_eq!(collector.observe(at(14)), []);
    let released = collector.observe(at(15));
    assert_eq!(words(&released), ["net.c1 [10.0.0.0]"]);
    assert_eq!(collector.observe(at(15)), [], "not twice at once");
    assert_eq!(collector.observe(at(16)), released, "but again while it is there");
}

#[test]
fn a_workload_that_comes_back_saves_its_address() {
    let (mut collector, _) = lab();
    collector.observe(at(0));
    collector.put_workload(&name("w"), vec![ip("10.0.0.0")]);
    assert_eq!(collector.observe(at(20)), []);
    assert_eq!(collector.candidates().count(), 0);
    collector.delete_workload(&name("w"));
    assert_eq!(collector.observe(at(21)), []);
    assert_eq!(collector.next_due(), Some(at(36)), "its time begins anew");
}

#[test]
fn a_workload_that_came_and_went_between_two_observations_begins_its_time_anew() {
    let (mut collector, _) = lab();
    collector.observe(at(0));
    collector.put_workload(&name("w"), vec![ip("10.0.0.0")]);
    collector.delete_workload(&name("w"));
    assert_eq!(collector.observe(at(15)), []);
    assert_eq!(collector.next_due(), Some(at(30)));
}

#[test]
fn an_address_assigned_anew_is_not_what_was_observed() {
    let (mut collector, mut block) = lab();
    collector.observe(at(0));
    block.release(&[ip("10.0.0.0")], at(10), SignedDuration::ZERO);
    assign(&mut block, "10.0.0.0", "net.c1", &[("pod", "p"), ("namespace", "test"), ("node", "a")]);
    collector.put_block(&block);
    assert_eq!(collector.observe(at(15)), []);
    let Release::Addresses { addresses, .. } = &collector.observe(at(30))[0] else { panic!() };
    assert_eq!(*addresses, [(ip("10.0.0.0"), block.sequence_of(ip("10.0.0.0")))]);
}

#[test]
fn who_holds_an_address_decides_when_it_goes() {
    let pod = [("pod", "p"), ("namespace", "test"), ("node", "a")];
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Option<i64>);
    let rows: &[Row<'_>] = &[
        ("a pod", "net.c1", &pod, Some(15)),
        ("a container", "net.0123456789ab", &[("node", "a")], Some(15)),
        ("a container on a node that is gone", "net.0123456789ab", &[("node", "b")], Some(0)),
        ("a pod on a node that is gone", "net.c1", &[("pod", "p"), ("namespace", "test"), ("node", "b")], Some(0)),
        ("a virtual machine", "net.vm", &[("vmi-name", "v"), ("namespace", "test"), ("node", "b")], Some(15)),
        ("a tunnel", "ipip-tunnel-addr-a", &[("node", "a"), ("type", "ipipTunnelAddress")], None),
        (
            "a tunnel of a node that is gone",
            "ipip-tunnel-addr-b",
            &[("node", "b"), ("type", "ipipTunnelAddress")],
            Some(0),
        ),
        ("its IPv6 tunnel", "x", &[("node", "b"), ("type", "wireguardV6TunnelAddress")], Some(0)),
        (
            "a service that is gone",
            "lb-1",
            &[("service", "s"), ("namespace", "test"), ("type", "LoadBalancer")],
            Some(8),
        ),
        ("a service", "lb-1", &[("service", "web"), ("namespace", "test"), ("type", "LoadBalancer")], None),
        ("assigned by hand", "mine", &[("node", "b")], None),
        ("assigned by hand, with a dot", "my.printer", &[("node", "b")], None),
        ("of a type that we do not know", "net.0123456789ab", &[("node", "b"), ("type", "other")], None),
        ("without attributes", "net.0123456789ab", &[], None),
    ];
    for (what, handle, attributes, minutes) in rows {
        let mut collector = Collector::default();
        collector.put_node("a");
        collector.put_service(&name("web"));
        let mut block = block("fd00::/126", &host("a"));
        assign(&mut block, "fd00::1", handle, attributes);
        collector.put_block(&block);
        let first = (0..60).find(|m| !collector.observe(at(*m)).is_empty());
        assert_eq!(first, *minutes, "{what}");
    }
}

#[test]
fn without_a_grace_period_only_a_nodes_end_releases() {
    let (mut collector, _) = lab();
    collector.set_settings(Settings { grace: SignedDuration::ZERO, ..Settings::default() });
    assert_eq!(collector.observe(at(0)), []);
    assert_eq!(collector.observe(at(10_000)), []);
    collector.delete_node("a");
    assert_eq!(words(&collector.observe(at(10_001))), ["net.c1 [10.0.0.0]", "block 10.0.0.0/30 false"]);
}

#[test]
fn a_virtual_machine_is_kept_five_minutes_at_least() {
    let mut collector = Collector::new(Settings { grace: SignedDuration::from_secs(30), ..Settings::default() });
    let mut block = block("10.0.0.0/30", &host("a"));
    collector.put_node("a");
    assign(&mut block, "10.0.0.0", "net.test-v", &[("vmi-name", "v"), ("namespace", "test")]);
    collector.put_block(&block);
    collector.observe(at(0));
    assert_eq!(collector.next_due(), Some(at(5)));
}

#[test]
fn the_addresses_of_a_handle_go_together_or_not_at_all() {
    let (mut collector, _) = lab();
    let mut v6 = block("fd00::/126", &host("a"));
    assign(&mut v6, "fd00::2", "net.c1", &[("pod", "p"), ("namespace", "test"), ("node", "a")]);
    collector.put_block(&v6);
    collector.put_workload(&name("w"), vec![ip("fd00:0::2")]);
    assert_eq!(collector.observe(at(0)), []);
    assert_eq!(collector.observe(at(100)), [], "one of two lives");
    collector.delete_workload(&name("w"));
    collector.observe(at(100));
    assert_eq!(words(&collector.observe(at(115))), ["net.c1 [10.0.0.0, fd00::2]"]);
}

#[test]
fn with_kubernetes_a_pod_that_runs_keeps_its_address() {
    let running =
        |addresses: &[&str]| PodView { addresses: addresses.iter().map(|a| ip(a)).collect(), is_finished: false };
    let rows = [
        ("has not said its address", Some(running(&[])), true),
        ("says this address", Some(running(&["10.0.0.0"])), true),
        ("says another", Some(running(&["10.0.0.3"])), false),
        ("has ended", Some(PodView { is_finished: true, ..running(&["10.0.0.0"]) }), false),
        ("is gone", None, false),
    ];
    for (what, pod, kept) in rows {
        let (mut collector, _) = lab();
        collector.set_settings(Settings { has_kubernetes: true, ..Settings::default() });
        if let Some(pod) = pod {
            collector.put_pod(&name("p"), pod);
        }
        collector.observe(at(0));
        assert_eq!(collector.candidates().count() == 0, kept, "{what}");
    }
    let (mut collector, _) = lab();
    collector.put_pod(&name("p"), running(&[]));
    collector.observe(at(0));
    assert_eq!(collector.candidates().count(), 1, "without Kubernetes a Pod document says nothing");
}

#[test]
fn empty_blocks_go_but_never_a_nodes_last() {
    let mut collector = Collector::new(Settings { grace: SignedDuration::from_mins(10), ..Settings::default() });
    collector.put_node("a");
    for cidr in ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30", "fd00::/126"] {
        collector.put_block(&block(cidr, &host("a")));
    }
    assert_eq!(collector.observe(at(0)), []);
    assert_eq!(words(&collector.observe(at(5))), ["block 10.0.0.4/30 true", "block 10.0.0.8/30 true"]);
    let mut used = block("10.0.0.8/30", &host("a"));
    assign(&mut used, "10.0.0.8", "mine", &[]);
    collector.put_block(&used);
    collector.delete_block(net("10.0.0.4/30"));
    collector.observe(at(6));
    assert_eq!(words(&collector.observe(at(11))), ["block 10.0.0.0/30 true"], "another is in use");
}

#[test]
fn empty_blocks_of_nobody_and_of_services_go() {
    let mut collector = Collector::default();
    let mut nobodys = block("10.0.0.0/30", &host("a")).stored();
    nobodys.affinity = None;
    collector.put_block(&Block::from_stored(nobodys).unwrap());
    collector.put_block(&block("10.0.0.4/30", &AffinityOwner::Virtual("load-balancer".into())));
    assert_eq!(collector.observe(at(0)), []);
    assert_eq!(words(&collector.observe(at(8))), ["block 10.0.0.0/30 true", "block 10.0.0.4/30 true"]);
}

/// Nothing is written when an address has cooled down.
#[test]
fn a_block_in_which_addresses_cool_down_is_empty() {
    let mut collector = Collector::default();
    let mut nobodys = block("10.0.0.0/30", &host("a"));
    assign(&mut nobodys, "10.0.0.0", "mine", &[]);
    nobodys.release(&[ip("10.0.0.0")], at(-1), SignedDuration::from_secs(30));
    nobodys.clear_owner();
    collector.put_block(&nobodys);
    assert_eq!(collector.observe(at(0)), []);
    assert_eq!(words(&collector.observe(at(8))), ["block 10.0.0.0/30 true"]);
}

#[test]
fn affinities_and_handles_without_what_they_are_for_go() {
    let mut collector = Collector::default();
    collector.put_node("a");
    collector.put_block(&block("10.0.0.0/30", &host("a")));
    let owners = [("a", "10.0.0.0/30"), ("a", "10.0.0.4/30"), ("b", "10.0.0.0/30"), ("b", "10.0.0.8/30")];
    for (revision, (node, cidr)) in owners.into_iter().enumerate() {
        collector.put_affinity(&host(node), net(cidr), revision as u64);
    }
    collector.put_record("lost", Some(vec![net("10.0.0.0/30")]), 7);
    // Node b does not exist: what it holds goes at once.
    assert_eq!(words(&collector.observe(at(0))), ["affinity host:b 10.0.0.0/30", "affinity host:b 10.0.0.8/30"]);
    collector.delete_affinity(&host("b"), net("10.0.0.0/30"));
    collector.delete_affinity(&host("b"), net("10.0.0.8/30"));
    assert_eq!(words(&collector.observe(at(8))), ["affinity host:a 10.0.0.4/30", "record lost"]);
    assert!(collector.has_traces_of("a") && !collector.has_traces_of("b"));
}

#[test]
fn a_block_that_cannot_be_read_keeps_what_names_it() {
    let (mut collector, _) = lab();
    collector.put_record("net.c1", Some(vec![net("10.0.0.0/30"), net("10.0.0.4/30")]), 3);
    collector.put_affinity(&host("a"), net("10.0.0.4/30"), 4);
    collector.put_unreadable_block(net("10.0.0.4/30"));
    assert_eq!(collector.observe(at(0)), []);
    assert_eq!(collector.candidates().count(), 0);
    collector.delete_block(net("10.0.0.4/30"));
    collector.observe(at(0));
    assert_eq!(collector.candidates().count(), 2);
    // It can be read again, and is nobody's.
    collector.put_unreadable_block(net("10.0.0.4/30"));
    collector.observe(at(0));
    assert_eq!(collector.candidates().count(), 0);
    let mut block = Block::new(net("10.0.0.4/30"), &host("a"), at(0)).unwrap();
    block.clear_owner();
    collector.put_block(&block);
    collector.observe(at(0));
    assert_eq!(collector.candidates().count(), 3);
}

/// The blocks that are looked at for one event are not more where there are more.
#[test]
fn an_address_of_a_block_concerns_that_block_alone() {
    for owner in [host("a"), AffinityOwner::Virtual("load-balancer".into())] {
        let mut collector = Collector::new(Settings::default());
        collector.put_node("a");
        let mut blocks: Vec<Block> =
            (0..32).map(|n| Block::new(net(&format!("10.0.{n}.0/30")), &owner, at(0)).unwrap()).collect();
        for block in &mut blocks {
            block
                .assign(1, Assignee { handle: "h", attributes: &BTreeMap::new() }, &Reservations::default(), None)
                .unwrap();
            collector.put_block(block);
        }
        collector.observe(at(0));
        let to = Assignee { handle: "i", attributes: &BTreeMap::new() };
        blocks[7].assign(1, to, &Reservations::default(), None).unwrap();
        collector.put_block(&blocks[7]);
        let blocks: Vec<&Subject> = collector.dirty.iter().filter(|s| matches!(s, Subject::Block(_))).collect();
        assert_eq!(blocks, [&Subject::Block(net("10.0.7.0/30"))], "{owner:?}");
    }
}

#[test]
fn a_record_that_cannot_be_read_stays() {
    let (mut collector, _) = lab();
    collector.put_record("lost", None, 3);
    collector.put_record("net.c1", None, 4);
    assert_eq!(collector.observe(at(0)), []);
    assert_eq!(collector.candidates().count(), 0);
    collector.put_record("lost", Some(vec![]), 5);
    collector.observe(at(0));
    assert_eq!(collector.candidates().count(), 1);
}

#[test]
fn with_kubernetes_a_node_that_is_gone_keeps_the_blocks_of_what_runs() {
    let mut collector = Collector::new(Settings { has_kubernetes: true, ..Settings::default() });
    collector.put_node("a");
    let mut used = block("10.0.0.0/30", &host("a"));
    assign(&mut used, "10.0.0.1", "net.c1", &[("pod", "p1"), ("namespace", "test"), ("node", "a")]);
    collector.put_block(&used);
    collector.put_block(&block("10.0.0.4/30", &host("a")));
    collector.put_pod(&name("p1"), PodView::default());
    collector.observe(at(0));
    collector.delete_node("a");
    assert_eq!(words(&collector.observe(at(1))), ["block 10.0.0.4/30 false"], "what nothing runs on goes");
    // The endpoint keeps it as the pod does.
    collector.put_workload(&name("w1"), vec![ip("10.0.0.1")]);
    collector.delete_pod(&name("p1"));
    assert!(!words(&collector.observe(at(1))).iter().any(|w| w.contains("10.0.0.0")));
    collector.delete_workload(&name("w1"));
    let left = words(&collector.observe(at(1)));
    assert!(left.iter().any(|w| w == "block 10.0.0.0/30 false"), "{left:?}");
}

#[test]
fn an_endpoint_that_cannot_be_read_keeps_what_it_may_have_until_a_grace_period_after_its_nodes_end() {
    let workload = ("test".to_string(), "a-k8s-p-eth0".to_string());
    for had_some in [false, true] {
        let (mut collector, _) = lab();
        if had_some {
            collector.put_workload(&workload, vec![ip("10.0.0.0")]);
        }
        collector.put_unreadable_workload(&workload);
        assert_eq!(collector.observe(at(0)), []);
        assert_eq!(collector.candidates().count(), 0);
        collector.delete_node("a");
        let releases = words(&collector.observe(at(1)));
        assert_eq!(releases, ["block 10.0.0.0/30 false"], "addresses in use stay when the block goes");
        collector.put_node("a");
        collector.observe(at(10));
        assert_eq!(collector.candidates().count(), 0, "the node is there again");
        collector.delete_node("a");
        collector.observe(at(20));
        let (_, candidate) = collector.candidates().find(|(s, _)| matches!(s, Subject::Handle(_))).unwrap();
        assert_eq!((candidate.since, candidate.due), (at(20), at(35)));
        // Mended, it says what it has; deleted, it has nothing.
        collector.put_workload(&workload, vec![ip("10.0.0.0")]);
        assert!(!words(&collector.observe(at(40))).iter().any(|w| w.starts_with("net.c1")));
        collector.put_unreadable_workload(&workload);
        collector.observe(at(41));
        assert!(words(&collector.observe(at(56))).iter().any(|w| w.starts_with("net.c1")));
        collector.put_workload(&workload, vec![ip("10.0.0.0")]);
        collector.observe(at(57));
        collector.put_unreadable_workload(&workload);
        collector.observe(at(58));
        collector.delete_workload(&workload);
        assert!(words(&collector.observe(at(58))).iter().any(|w| w.starts_with("net.c1")));
    }
}

#[test]
fn an_endpoint_that_cannot_be_read_keeps_machines_while_its_node_is_there() {
    let mut collector = Collector::default();
    let mut block = block("10.0.0.0/30", &host("b"));
    assign(&mut block, "10.0.0.0", "net.vm", &[("vmi-name", "v"), ("namespace", "test"), ("node", "b")]);
    ["a", "b"].into_iter().for_each(|node| collector.put_node(node));
    collector.put_block(&block);
    collector.put_unreadable_workload(&("test".into(), "a-k8s-virt--launcher-eth0".into()));
    collector.observe(at(0));
    assert_eq!(collector.candidates().count(), 0);
    collector.delete_node("a");
    collector.observe(at(1));
    assert_eq!(collector.next_due(), Some(at(16)));
}

#[test]
fn the_name_of_an_endpoint_begins_with_its_node() {
    let rows = [("a-k8s-p-eth0", "a"), ("node--1-k8s-web--0-eth0", "node-1"), ("a--b-cni-c1-eth0", "a-b"), ("w1", "")];
    for (name, node) in rows {
        assert_eq!(node_of_endpoint(name), node, "{name}");
    }
}

/// What the store holds, in a small world.
#[derive(Clone, Debug, Default)]
struct World {
    blocks: BTreeMap<IpNet, Block>,
    nodes: BTreeSet<String>,
    workloads: BTreeMap<Name, Vec<IpAddr>>,
    pods: BTreeMap<Name, PodView>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Block, address and holder.
    Assign(u8, u8, u8),
    Free(u8, u8),
    /// A workload with the address of a block, or none.
    Workload(u8, Option<(u8, u8)>),
    Node(u8, bool),
    Pod(u8, Option<(bool, bool)>),
    DropBlock(u8),
    /// Time passes, in minutes, and the collector looks.
    Observe(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4u8, 0..4u8, 0..8u8).prop_map(|(b, o, h)| Step::Assign(b, o, h)),
        2 => (0..4u8, 0..4u8).prop_map(|(b, o)| Step::Free(b, o)),
        3 => (0..4u8, proptest::option::of((0..4u8, 0..4u8))).prop_map(|(w, a)| Step::Workload(w, a)),
        2 => (0..3u8, any::<bool>()).prop_map(|(n, there)| Step::Node(n, there)),
        1 => (0..3u8, proptest::option::of((any::<bool>(), any::<bool>()))).prop_map(|(p, v)| Step::Pod(p, v)),
        1 => (0..4u8).prop_map(Step::DropBlock),
        3 => (1..12u8).prop_map(Step::Observe),
    ];
    proptest::collection::vec(step, 1..60)
}

fn block_of(index: u8) -> IpNet {
    [net("10.0.0.0/30"), net("10.0.0.4/30"), net("fd00::/126"), net("fd00::4/126")][usize::from(index)]
}

fn address_of(block: u8, ordinal: u8) -> IpAddr {
    crate::block::address_in(block_of(block), u128::from(ordinal))
}

impl World {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Assign(b, o, h) => {
                let owner = host(&format!("n{}", b % 3));
                let block = self
                    .blocks
                    .entry(block_of(*b))
                    .or_insert_with(|| Block::new(block_of(*b), &owner, at(-10)).unwrap());
                let node = format!("n{}", h % 3);
                let pod = format!("p{}", h % 3);
                let pairs: Vec<(&str, &str)> = match h {
                    0..=3 => vec![("pod", pod.as_str()), ("namespace", "test"), ("node", node.as_str())],
                    4 | 5 => vec![("node", node.as_str())],
                    6 => vec![("node", node.as_str()), ("type", "vxlanV6TunnelAddress")],
                    _ => vec![],
                };
                let attributes = pairs.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
                let handle = format!("net.00000000000{h}");
                let to = Assignee { handle: &handle, attributes: &attributes };
                let _ = block.assign_address(address_of(*b, *o), to, None);
            }
            Step::Free(b, o) => {
                if let Some(block) = self.blocks.get_mut(&block_of(*b)) {
                    block.release(&[address_of(*b, *o)], at(0), SignedDuration::ZERO);
                }
            }
            Step::Workload(w, address) => {
                let address = address.map(|(b, o)| vec![address_of(b, o)]);
                set(&mut self.workloads, name(&format!("w{w}")), address);
            }
            Step::Node(n, there) => {
                let node = format!("n{n}");
                if *there {
                    self.nodes.insert(node)
                } else {
                    self.nodes.remove(&node)
                };
            }
            Step::Pod(p, view) => {
                let view = view.map(|(has_address, is_finished)| PodView {
                    addresses: if has_address { vec![address_of(*p, *p)] } else { vec![] },
                    is_finished,
                });
                set(&mut self.pods, name(&format!("p{p}")), view);
            }
            Step::DropBlock(b) => drop(self.blocks.remove(&block_of(*b))),
            Step::Observe(_) => {}
        }
    }

    /// Tells a collector of everything that differs from `before`, in an order that `seed` chooses.
    fn tell(&self, before: &World, collector: &mut Collector, seed: u64) {
        type Event<'a> = Box<dyn Fn(&mut Collector) + 'a>;
        let mut events: Vec<Event<'_>> = Vec::new();
        for cidr in before.blocks.keys().chain(self.blocks.keys()).collect::<BTreeSet<_>>() {
            match (before.blocks.get(cidr), self.blocks.get(cidr)) {
                (old, Some(new)) if old != Some(new) => events.push(Box::new(move |c| c.put_block(new))),
                (Some(_), None) => events.push(Box::new(move |c| c.delete_block(*cidr))),
                _ => {}
            }
        }
        for node in before.nodes.symmetric_difference(&self.nodes) {
            match self.nodes.contains(node) {
                true => events.push(Box::new(move |c| c.put_node(node))),
                false => events.push(Box::new(move |c| c.delete_node(node))),
            }
        }
        for key in before.workloads.keys().chain(self.workloads.keys()).collect::<BTreeSet<_>>() {
            match self.workloads.get(key) {
                Some(new) => events.push(Box::new(move |c| c.put_workload(key, new.clone()))),
                None => events.push(Box::new(move |c| c.delete_workload(key))),
            }
        }
        for key in before.pods.keys().chain(self.pods.keys()).collect::<BTreeSet<_>>() {
            match self.pods.get(key) {
                Some(new) => events.push(Box::new(move |c| c.put_pod(key, new.clone()))),
                None => events.push(Box::new(move |c| c.delete_pod(key))),
            }
        }
        let mut random = seed | 1;
        while !events.is_empty() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(random >> 33).unwrap() % events.len();
            events.swap_remove(at)(collector);
        }
    }

    /// Whether somebody uses the address: the rule, said once more.
    fn lives(&self, ip: IpAddr, collector: &Collector) -> bool {
        let has_pod = |attributes: &BTreeMap<String, String>| {
            let pod = attributes.get("pod").and_then(|p| self.pods.get(&name(p)));
            pod.is_some_and(|p| !p.is_finished && (p.addresses.is_empty() || p.addresses.contains(&ip)))
        };
        let attribute = self.blocks.values().find_map(|b| b.attribute_of(ip));
        let attributes = attribute.and_then(|a| a.secondary.clone()).unwrap_or_default();
        self.workloads.values().flatten().any(|used| *used == ip)
            || (collector.settings.has_kubernetes && has_pod(&attributes))
            || attributes.is_empty()
            || (attributes.contains_key("type") && self.nodes.contains(&attributes["node"]))
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

proptest! {
    #[test]
    fn any_order_of_events_gives_the_same_and_nothing_that_lives_goes(
        steps in steps(), seed in any::<u64>(), has_kubernetes in any::<bool>(), grace in 0..3i64,
    ) {
        let settings = Settings { grace: SignedDuration::from_mins(grace * 5), has_kubernetes };
        let (mut one, mut other, mut close) = (Collector::new(settings), Collector::new(settings), Collector::new(settings));
        let (mut world, mut told, mut told_close) = (World::default(), World::default(), World::default());
        let mut minutes = 0;
        for (i, step) in steps.iter().enumerate() {
            world.apply(step);
            // Two hear of the outcome of many steps, each in an order of its own; one hears of every step.
            world.tell(&told_close, &mut close, 0);
            told_close = world.clone();
            let Step::Observe(more) = step else { continue };
            minutes += i64::from(*more);
            world.tell(&told, &mut one, 0);
            world.tell(&told, &mut other, seed.wrapping_add(i as u64));
            told = world.clone();
            let releases = one.observe(at(minutes));
            prop_assert_eq!(&releases, &other.observe(at(minutes)));
            prop_assert_eq!(&one.candidates, &other.candidates);
            close.observe(at(minutes));
            prop_assert!(one.candidates.iter().all(|(s, c)| close.candidates[s].since >= c.since), "what came and went waits anew");
            let mut anew = Collector::new(settings);
            world.tell(&World::default(), &mut anew, seed);
            anew.observe(at(minutes));
            let subjects = |c: &Collector| c.candidates.iter().map(|(s, k)| (s.clone(), k.reason.clone())).collect::<Vec<_>>();
            prop_assert_eq!(subjects(&one), subjects(&close));
            prop_assert_eq!(subjects(&one), subjects(&anew), "what is a candidate is a function of the present");
            for release in releases {
                match release {
                    Release::Addresses { handle, addresses, .. } => {
                        let held: BTreeSet<IpAddr> = world.blocks.values().flat_map(|b| b.addresses_of(&handle)).collect();
                        prop_assert_eq!(&held, &addresses.iter().map(|(ip, _)| *ip).collect());
                        prop_assert!(held.iter().all(|ip| !world.lives(*ip, &one)), "{} lives", handle);
                    }
                    Release::Block { cidr, must_be_empty, owner, .. } => {
                        let block = &world.blocks[&cidr];
                        prop_assert!(block.is_empty() || !must_be_empty);
                        let Some(AffinityOwner::Host(node)) = owner else { panic!() };
                        let others = world.blocks.values().filter(|b| b.owner() == block.owner() && b.cidr() != cidr);
                        prop_assert!(!world.nodes.contains(&node) || others.count() > 0, "the last of {}", node);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
