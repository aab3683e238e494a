//! Numbers of the IANA registries "BGP Parameters" and "Capability Codes", and their names.

use serde::{Deserialize, Serialize};

/// "BGP Message Types".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    Open = 1,
    Update = 2,
    Notification = 3,
    Keepalive = 4,
    /// RFC 2918.
    RouteRefresh = 5,
}

impl MessageType {
    pub fn from_wire(octet: u8) -> Option<MessageType> {
        Some(match octet {
            1 => MessageType::Open,
            2 => MessageType::Update,
            3 => MessageType::Notification,
            4 => MessageType::Keepalive,
            5 => MessageType::RouteRefresh,
            _ => return None,
        })
    }
}

// "BGP Error (Notification) Codes" (RFC 4271 section 4.5).
pub const MESSAGE_HEADER_ERROR: u8 = 1;
pub const OPEN_MESSAGE_ERROR: u8 = 2;
pub const UPDATE_MESSAGE_ERROR: u8 = 3;
pub const HOLD_TIMER_EXPIRED: u8 = 4;
pub const FSM_ERROR: u8 = 5;
pub const CEASE: u8 = 6;
/// RFC 7313.
pub const ROUTE_REFRESH_MESSAGE_ERROR: u8 = 7;
/// RFC 9687.
pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;

// Message Header Error subcodes.
pub const CONNECTION_NOT_SYNCHRONIZED: u8 = 1;
pub const BAD_MESSAGE_LENGTH: u8 = 2;
pub const BAD_MESSAGE_TYPE: u8 = 3;

// OPEN Message Error subcodes.
pub const UNSUPPORTED_VERSION: u8 = 1;
pub const BAD_PEER_AS: u8 = 2;
pub const BAD_BGP_IDENTIFIER: u8 = 3;
pub const UNSUPPORTED_OPTIONAL_PARAMETER: u8 = 4;
pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
/// RFC 5492.
pub const UNSUPPORTED_CAPABILITY: u8 = 7;
/// RFC 9234.
pub const ROLE_MISMATCH: u8 = 11;

// UPDATE Message Error subcodes.
pub const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
pub const UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE: u8 = 2;
pub const OPTIONAL_ATTRIBUTE_ERROR: u8 = 9;
pub const INVALID_NETWORK_FIELD: u8 = 10;

// Finite State Machine Error subcodes (RFC 6608).
pub const UNEXPECTED_IN_OPEN_SENT: u8 = 1;
pub const UNEXPECTED_IN_OPEN_CONFIRM: u8 = 2;
pub const UNEXPECTED_IN_ESTABLISHED: u8 = 3;

// ROUTE-REFRESH Message Error subcodes (RFC 7313).
pub const INVALID_MESSAGE_LENGTH: u8 = 1;

// Cease subcodes (RFC 4486).
pub const MAXIMUM_PREFIXES: u8 = 1;
pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
pub const PEER_DECONFIGURED: u8 = 3;
pub const ADMINISTRATIVE_RESET: u8 = 4;
pub const CONNECTION_REJECTED: u8 = 5;
pub const OTHER_CONFIGURATION_CHANGE: u8 = 6;
pub const CONNECTION_COLLISION_RESOLUTION: u8 = 7;
pub const OUT_OF_RESOURCES: u8 = 8;
/// RFC 8538.
pub const HARD_RESET: u8 = 9;
/// RFC 9384.
pub const BFD_DOWN: u8 = 10;

// "BGP Path Attributes".
pub const ORIGIN: u8 = 1;
pub const AS_PATH: u8 = 2;
pub const NEXT_HOP: u8 = 3;
pub const MULTI_EXIT_DISC: u8 = 4;
pub const LOCAL_PREF: u8 = 5;
pub const ATOMIC_AGGREGATE: u8 = 6;
pub const AGGREGATOR: u8 = 7;
pub const COMMUNITIES: u8 = 8;
pub const ORIGINATOR_ID: u8 = 9;
pub const CLUSTER_LIST: u8 = 10;
pub const MP_REACH_NLRI: u8 = 14;
pub const MP_UNREACH_NLRI: u8 = 15;
pub const EXTENDED_COMMUNITIES: u8 = 16;
pub const AS4_PATH: u8 = 17;
pub const AS4_AGGREGATOR: u8 = 18;
pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
pub const AIGP: u8 = 26;
pub const LINK_STATE: u8 = 29;
pub const LARGE_COMMUNITIES: u8 = 32;
pub const ONLY_TO_CUSTOMER: u8 = 35;
pub const PREFIX_SID: u8 = 40;

// Attribute flags (RFC 4271 section 4.3).
pub const OPTIONAL: u8 = 0x80;
pub const TRANSITIVE: u8 = 0x40;
pub const PARTIAL: u8 = 0x20;
pub const EXTENDED_LENGTH: u8 = 0x10;

// "Capability Codes".
pub const CAP_MULTIPROTOCOL: u8 = 1;
pub const CAP_ROUTE_REFRESH: u8 = 2;
pub const CAP_EXTENDED_NEXT_HOP: u8 = 5;
pub const CAP_EXTENDED_MESSAGE: u8 = 6;
pub const CAP_ROLE: u8 = 9;
pub const CAP_GRACEFUL_RESTART: u8 = 64;
pub const CAP_FOUR_OCTET_AS: u8 = 65;
pub const CAP_ADD_PATH: u8 = 69;
pub const CAP_ENHANCED_ROUTE_REFRESH: u8 = 70;
pub const CAP_LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
pub const CAP_FQDN: u8 = 73;

/// RFC 6793: stands for an AS number that does not fit two octets.
pub const AS_TRANS: u16 = 23456;

// "BGP Well-known Communities".
/// RFC 8326.
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
/// RFC 9494.
pub const LLGR_STALE: u32 = 0xffff_0006;
/// RFC 9494.
pub const NO_LLGR: u32 = 0xffff_0007;
/// RFC 7999.
pub const BLACKHOLE: u32 = 0xffff_029a;
/// RFC 1997.
pub const NO_EXPORT: u32 = 0xffff_ff01;
/// RFC 1997.
pub const NO_ADVERTISE: u32 = 0xffff_ff02;
/// RFC 1997.
pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
/// RFC 3765.
pub const NO_PEER: u32 = 0xffff_ff04;

/// "BGP Role Value" (RFC 9234 section 4.1): the role of the speaker that says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Role {
    Provider = 0,
    RouteServer = 1,
    RouteServerClient = 2,
    Customer = 3,
    Peer = 4,
}

impl Role {
    /// `None`: not assigned.
    pub fn from_wire(octet: u8) -> Option<Role> {
        [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer]
            .get(usize::from(octet))
            .copied()
    }

    /// The role that the other side must have (RFC 9234 section 4.2, table 2).
    pub fn counterpart(self) -> Role {
        match self {
            Role::Provider => Role::Customer,
            Role::RouteServer => Role::RouteServerClient,
            Role::RouteServerClient => Role::RouteServer,
            Role::Customer => Role::Provider,
            Role::Peer => Role::Peer,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Provider => "provider",
            Role::RouteServer => "route server",
            Role::RouteServerClient => "route server client",
            Role::Customer => "customer",
            Role::Peer => "peer",
        }
    }
}

/// Name of a path attribute; `None`: not assigned, or of no use outside its own family.
pub fn attribute_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        ORIGIN => "ORIGIN",
        AS_PATH => "AS_PATH",
        NEXT_HOP => "NEXT_HOP",
        MULTI_EXIT_DISC => "MULTI_EXIT_DISC",
        LOCAL_PREF => "LOCAL_PREF",
        ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        AGGREGATOR => "AGGREGATOR",
        COMMUNITIES => "COMMUNITIES",
        ORIGINATOR_ID => "ORIGINATOR_ID",
        CLUSTER_LIST => "CLUSTER_LIST",
        MP_REACH_NLRI => "MP_REACH_NLRI",
        MP_UNREACH_NLRI => "MP_UNREACH_NLRI",
        EXTENDED_COMMUNITIES => "EXTENDED COMMUNITIES",
        AS4_PATH => "AS4_PATH",
        AS4_AGGREGATOR => "AS4_AGGREGATOR",
        22 => "PMSI_TUNNEL",
        23 => "Tunnel Encapsulation",
        24 => "Traffic Engineering",
        IPV6_EXTENDED_COMMUNITIES => "IPv6 EXTENDED COMMUNITIES",
        AIGP => "AIGP",
        27 => "PE Distinguisher Labels",
        LINK_STATE => "BGP-LS",
        LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        33 => "BGPsec_Path",
        34 => "BGP Community Container",
        ONLY_TO_CUSTOMER => "OTC",
        36 => "D-PATH",
        37 => "SFP",
        38 => "BFD Discriminator",
        39 => "BGP Next Hop Dependent Characteristics",
        PREFIX_SID => "BGP Prefix-SID",
        128 => "ATTR_SET",
        _ => return None,
    })
}

/// Name of a capability; `None`: not assigned.
pub fn capability_name(code: u8) -> Option<&'static str> {
    Some(match code {
        CAP_MULTIPROTOCOL => "Multiprotocol Extensions",
        CAP_ROUTE_REFRESH => "Route Refresh",
        3 => "Outbound Route Filtering",
        CAP_EXTENDED_NEXT_HOP => "Extended Next Hop Encoding",
        CAP_EXTENDED_MESSAGE => "BGP Extended Message",
        7 => "BGPsec",
        8 => "Multiple Labels",
        CAP_ROLE => "BGP Role",
        CAP_GRACEFUL_RESTART => "Graceful Restart",
        CAP_FOUR_OCTET_AS => "4-octet AS number",
        67 => "Dynamic Capability",
        68 => "Multisession BGP",
        CAP_ADD_PATH => "ADD-PATH",
        CAP_ENHANCED_ROUTE_REFRESH => "Enhanced Route Refresh",
        CAP_LONG_LIVED_GRACEFUL_RESTART => "Long-Lived Graceful Restart",
        72 => "Routing Policy Distribution",
        CAP_FQDN => "FQDN",
        74 => "BFD Strict-Mode",
        75 => "Software Version",
        76 => "PATHS-LIMIT",
        128 => "Route Refresh (before RFC 2918)",
        129 => "Outbound Route Filtering (before RFC 5291)",
        130 => "Outbound Route Filtering (before RFC 5291)",
        131 => "Multisession BGP (of one vendor)",
        184 => "FQDN (of one vendor)",
        185 => "OPERATIONAL message",
        _ => return None,
    })
}

/// What a NOTIFICATION's code and subcode mean; of an unknown subcode, what its code means.
pub fn error_name(code: u8, subcode: u8) -> &'static str {
    match (code, subcode) {
        // RFC 4271 section 6.1.
        (1, 1) => "connection not synchronized",
        (1, 2) => "bad message length",
        (1, 3) => "bad message type",
        (1, _) => "message header error",
        // RFC 4271 section 6.2; 5 is the authentication failure of RFC 1771.
        (2, 1) => "unsupported version",
        (2, 2) => "bad peer AS",
        (2, 3) => "bad BGP identifier",
        (2, 4) => "unsupported optional parameter",
        (2, 5) => "authentication failure",
        (2, 6) => "unacceptable hold time",
        (2, 7) => "unsupported capability",
        (2, 8) => "grouping conflict",
        (2, 9) => "grouping required",
        (2, 10) => "capability value mismatch",
        (2, 11) => "role mismatch",
        (2, _) => "OPEN message error",
        // RFC 4271 section 6.3; 7 is the AS routing loop of RFC 1771.
        (3, 1) => "malformed attribute list",
        (3, 2) => "unrecognized well-known attribute",
        (3, 3) => "missing well-known attribute",
        (3, 4) => "attribute flags error",
        (3, 5) => "attribute length error",
        (3, 6) => "invalid ORIGIN attribute",
        (3, 7) => "AS routing loop",
        (3, 8) => "invalid NEXT_HOP attribute",
        (3, 9) => "optional attribute error",
        (3, 10) => "invalid network field",
        (3, 11) => "malformed AS_PATH",
        (3, _) => "UPDATE message error",
        (4, _) => "hold timer expired",
        // RFC 6608.
        (5, 1) => "unexpected message in OpenSent state",
        (5, 2) => "unexpected message in OpenConfirm state",
        (5, 3) => "unexpected message in Established state",
        (5, _) => "finite state machine error",
        // RFC 4486, RFC 8538, RFC 9384.
        (6, 1) => "maximum number of prefixes reached",
        (6, 2) => "administrative shutdown",
        (6, 3) => "peer de-configured",
        (6, 4) => "administrative reset",
        (6, 5) => "connection rejected",
        (6, 6) => "other configuration change",
        (6, 7) => "connection collision resolution",
        (6, 8) => "out of resources",
        (6, 9) => "hard reset",
        (6, 10) => "BFD down",
        (6, _) => "cease",
        // RFC 7313 section 5.
        (7, 1) => "invalid length of a ROUTE-REFRESH",
        (7, _) => "ROUTE-REFRESH message error",
        (8, _) => "send hold timer expired",
        _ => "unknown error",
    }
}

/// What an ORIGIN says (RFC 4271 section 4.3).
pub fn origin_name(value: u8) -> &'static str {
    match value {
        0 => "IGP",
        1 => "EGP",
        2 => "INCOMPLETE",
        _ => "unknown",
    }
}
