//! Handles: how many addresses one workload has in which block (Calico `libcalico-go/lib/ipam/ipam_handle.go`). Pure.
//!
//! Counts are exact: a handle is written in the transaction that writes its blocks.

use api::ipam::IpamHandle;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use sha2::{Digest, Sha256};

/// Longest handle of a service (Calico: the length of a Kubernetes name).
const MAX_SERVICE_HANDLE: usize = 253;

/// The text of a handle as it is stored: cut at the first carriage return (Calico).
pub fn sanitized(handle: &str) -> &str {
    handle.split('\r').next().unwrap_or_default()
}

/// Sets the number of addresses that the handle has in a block; with none, the block is forgotten. The number is counted in the
/// block, so that a handle which Calico has counted wrongly becomes right.
pub fn set(handle: &mut IpamHandle, block: IpNet, n: usize) {
    let block = block.to_string();
    if n == 0 {
        handle.block.remove(&block);
    } else {
        handle.block.insert(block, n);
    }
}

/// The blocks in which the handle has addresses; what is no CIDR is left out.
pub fn blocks(handle: &IpamHandle) -> Vec<IpNet> {
    handle.block.keys().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The handle of a service's load-balancer addresses (Calico `kube-controllers/pkg/controllers/loadbalancer`).
pub fn for_service(name: &str, namespace: &str, uid: &str) -> String {
    let digest = Sha256::digest(format!("{name}-{namespace}-{uid}").to_lowercase());
    let text: String = URL_SAFE_NO_PAD.encode(digest).chars().filter(|c| !matches!(c, '-' | '_' | '.')).collect();
    let mut handle = format!("lb-{text}");
    handle.truncate(MAX_SERVICE_HANDLE);
    handle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn counts_are_kept_per_block_and_an_empty_block_is_forgotten() {
        let mut handle = IpamHandle::default();
        set(&mut handle, net("10.0.0.0/26"), 2);
        set(&mut handle, net("10.0.0.64/26"), 1);
        set(&mut handle, net("10.0.0.128/26"), 0);
        assert_eq!(blocks(&handle), [net("10.0.0.0/26"), net("10.0.0.64/26")]);
        set(&mut handle, net("10.0.0.0/26"), 1);
        assert_eq!(handle.block["10.0.0.0/26"], 1);
        set(&mut handle, net("10.0.0.0/26"), 0);
        set(&mut handle, net("10.0.0.64/26"), 0);
        assert!(handle.block.is_empty());
    }

    #[test]
    fn a_handle_ends_at_the_first_carriage_return() {
        for (given, stored) in [("k8s.1", "k8s.1"), ("k8s.1\r\nx", "k8s.1"), ("", "")] {
            assert_eq!(sanitized(given), stored);
        }
    }

    #[test]
    fn a_service_handle_is_a_hash_without_separators() {
        let handle = for_service("web", "test", "5d6f");
        assert_eq!(handle, for_service("WEB", "Test", "5D6F"), "the text is hashed in lower case");
        assert_ne!(handle, for_service("web", "test", "5d70"), "a service made again is another");
        assert!(handle.strip_prefix("lb-").unwrap().chars().all(|c| c.is_ascii_alphanumeric()), "{handle}");
    }
}
