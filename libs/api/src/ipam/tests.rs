use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Reads a record and writes it again.
fn again<T: Serialize + for<'de> Deserialize<'de>>(text: &str) -> String {
    serde_json::to_string(&serde_json::from_str::<T>(text).expect(text)).unwrap()
}

/// A block as Calico writes it (`libcalico-go/lib/backend/model/block.go`), with one address in use and one that cools down.
const BLOCK: &str = concat!(
    r#"{"cidr":"10.0.0.64/30","affinity":"host:node-1","affinity_claim_time":"2026-08-22T10:00:00Z","#,
    r#""allocations":[0,null,2,1],"unallocated":[1],"attributes":["#,
    r#"{"handle_id":"ipip-tunnel-addr-node-1","secondary":{"node":"node-1","type":"ipipTunnelAddress"}},"#,
    r#"{"handle_id":"k8s-pod-network.4f1c","secondary":{"namespace":"default","node":"node-1","pod":"web-0","#,
    r#""timestamp":"2026-08-22 10:00:00.12 +0000 UTC"},"alternateOwnerAttrs":{"pod":"web-1"}},"#,
    r#"{"releasedAt":"2026-08-22T10:00:00Z"}],"#,
    r#""sequenceNumber":1787392800000000003,"#,
    r#""sequenceNumberForAllocation":{"0":1787392800000000001,"10":18446744073709551615,"3":1787392800000000002},"deleted":false}"#,
);

#[test]
fn records_as_calico_writes_them_are_written_back_byte_for_byte() {
    let no_owner = r#"{"cidr":"fd80:24e2:f998:72d6::/122","affinity":null,"allocations":[],"unallocated":[],"attributes":[],"sequenceNumber":0,"sequenceNumberForAllocation":{},"deleted":true}"#;
    let unknown = BLOCK.replace("\"deleted\":false}", "\"deleted\":false,\"later\":{\"b\":[1.5,null],\"a\":\"x\"}}");
    let unknown = unknown.replace("00:00Z\"}],", "00:00Z\",\"later\":7}],");
    assert!(unknown.matches("later").count() == 2);
    for block in [BLOCK, no_owner, &unknown] {
        assert_eq!(again::<AllocationBlock>(block), block);
    }
    // Calico leaves an empty mapping out; one that is there stays.
    let empty = BLOCK.replace("{\"releasedAt\"", "{\"secondary\":{},\"releasedAt\"");
    assert_eq!(again::<AllocationBlock>(&empty), empty);
    for affinity in ["pending", "confirmed", "pendingDeletion"] {
        let text = format!("{{\"state\":\"{affinity}\",\"deleted\":false}}");
        assert_eq!(again::<BlockAffinity>(&text), text);
    }
    for handle in [r#"{"block":{"10.0.0.64/26":1,"fd80::/122":64},"deleted":false}"#, r#"{"block":{},"deleted":true}"#]
    {
        assert_eq!(again::<IpamHandle>(handle), handle);
    }
    let more = r#"{"state":"confirmed","deleted":false,"later":{"b":[1.5,null],"a":"x"}}"#;
    assert_eq!(again::<BlockAffinity>(more), more);
    let more = r#"{"block":{"10.0.0.64/26":1},"deleted":false,"later":[{"b":1,"a":"x"}]}"#;
    assert_eq!(again::<IpamHandle>(more), more);
    for config in [
        r#"{"strict_affinity":false,"auto_allocate_blocks":true}"#,
        r#"{"strict_affinity":true,"auto_allocate_blocks":false,"maxBlocksPerHost":20,"kubeVirtVMAddressPersistence":"Enabled","ipCooldownSeconds":30}"#,
    ] {
        assert_eq!(again::<IpamConfig>(config), config);
    }
}

#[test]
fn the_names_of_the_configurations_fields_are_complete() {
    let config = IpamConfig {
        max_blocks_per_host: 1,
        kube_virt_vm_address_persistence: Some("Enabled".into()),
        ip_cooldown_seconds: 1,
        ..IpamConfig::default()
    };
    let record = serde_json::to_value(config).unwrap();
    let spec = crate::kdd::config_spec(record.clone());
    let typed: IpamConfigurationSpec = serde_json::from_value(spec.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap().to_string(), spec.to_string());
    assert_eq!(crate::kdd::config_record(spec).to_string(), record.to_string());
}

/// Older releases of Calico, and Go where nothing was made yet.
#[test]
fn what_older_releases_wrote_is_read() {
    let block: AllocationBlock = serde_json::from_value(json!({
        "cidr": "10.0.0.0/30", "affinity": null, "strictAffinity": false, "allocations": [0, null, null, null],
        "unallocated": null, "attributes": [{"handle_id": null, "secondary": null}],
        "sequenceNumberForAllocation": null, "hostAffinity": "node-1",
    }))
    .unwrap();
    assert_eq!(
        (block.unallocated.len(), block.sequence_number, block.affinity.as_deref()),
        (0, 0, Some("host:node-1"))
    );
    assert_eq!(block.attributes, [AllocationAttribute::default()]);
    assert_eq!(block.extra["strictAffinity"], false);
    let written = serde_json::to_value(&block).unwrap();
    assert_eq!((&written["affinity"], written.get(HOST_AFFINITY)), (&json!("host:node-1"), None));
    let handle: IpamHandle = serde_json::from_str(r#"{"block":null}"#).unwrap();
    assert_eq!(handle, IpamHandle::default());
    assert_eq!(serde_json::from_str::<BlockAffinity>(r#"{"state":""}"#).unwrap().state, AffinityState::Confirmed);
}

fn text_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-z-]{1,8}", "[ -~é]{0,12}", 0..4)
}

fn attribute() -> impl Strategy<Value = Value> {
    let time = Just("2026-08-22T10:00:00Z");
    (proptest::option::of("[a-zA-Z0-9.-]{1,20}"), text_map(), text_map(), proptest::option::of(time)).prop_map(
        |(handle, owner, other, released)| {
            // As Go has it: what is empty is left out.
            let mut fields = Map::new();
            fields.extend(handle.map(|h| ("handle_id".to_string(), h.into())));
            for (name, map) in [("secondary", owner), ("alternateOwnerAttrs", other)] {
                if !map.is_empty() {
                    fields.insert(name.into(), json!(map));
                }
            }
            fields.extend(released.map(|r| ("releasedAt".to_string(), r.into())));
            fields.into()
        },
    )
}

fn block() -> impl Strategy<Value = String> {
    (
        any::<u32>(),
        20..=32_u8,
        proptest::option::of("(host|virtual):[a-z0-9.-]{1,20}"),
        any::<bool>(),
        proptest::collection::vec(proptest::option::of(0..9_usize), 0..64),
        proptest::collection::vec(attribute(), 0..4),
        proptest::collection::btree_map("[0-9]{1,4}", any::<u64>(), 0..5),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(address, length, affinity, has_time, allocations, attributes, sequences, sequence, deleted)| {
            let cidr = ipnet::Ipv4Net::new(address.into(), length).unwrap().trunc();
            let free: Vec<usize> = (0..allocations.len()).filter(|i| allocations[*i].is_none()).rev().collect();
            let mut fields = Map::new();
            fields.insert("cidr".into(), cidr.to_string().into());
            fields.insert("affinity".into(), json!(affinity));
            if has_time {
                fields.insert("affinity_claim_time".into(), "2026-08-22T10:00:00Z".into());
            }
            let rest = json!({
                "allocations": allocations, "unallocated": free, "attributes": attributes, "sequenceNumber": sequence,
                "sequenceNumberForAllocation": sequences, "deleted": deleted,
            });
            fields.extend(rest.as_object().unwrap().clone());
            Value::Object(fields).to_string()
        })
}

proptest! {
    #[test]
    fn any_block_of_calicos_is_written_back_byte_for_byte(text in block()) {
        prop_assert_eq!(again::<AllocationBlock>(&text), text);
    }

    #[test]
    fn any_handle_of_calicos_is_written_back_byte_for_byte(
        blocks in proptest::collection::btree_map("[0-9./]{1,18}", 0..4096_u32, 0..5),
        deleted in any::<bool>(),
    ) {
        let text = json!({"block": blocks, "deleted": deleted}).to_string();
        prop_assert_eq!(again::<IpamHandle>(&text), text);
    }
}

#[test]
fn what_a_configuration_leaves_out_is_false() {
    for (text, strict, auto) in [
        (r#"{"strict_affinity":true}"#, true, false),
        (r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":20}"#, false, true),
        ("{}", false, false),
    ] {
        let config: IpamConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.strict_affinity, config.auto_allocate_blocks), (strict, auto), "{text}");
    }
    assert!(IpamConfig::default().auto_allocate_blocks, "without a record");
}
