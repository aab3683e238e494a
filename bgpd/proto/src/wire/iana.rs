//! Numbers of the IANA registries "BGP Parameters" and "Capability Codes".

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

// UPDATE Message Error subcodes.
pub const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
pub const UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE: u8 = 2;
pub const OPTIONAL_ATTRIBUTE_ERROR: u8 = 9;
pub const INVALID_NETWORK_FIELD: u8 = 10;

// Finite State Machine Error subcodes (RFC 6608).
pub const UNEXPECTED_IN_OPEN_SENT: u8 = 1;
pub const UNEXPECTED_IN_OPEN_CONFIRM: u8 = 2;
pub const UNEXPECTED_IN_ESTABLISHED: u8 = 3;

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
pub const CAP_GRACEFUL_RESTART: u8 = 64;
pub const CAP_FOUR_OCTET_AS: u8 = 65;

/// RFC 6793: stands for an AS number that does not fit two octets.
pub const AS_TRANS: u16 = 23456;

// Well-known communities (RFC 1997).
pub const NO_EXPORT: u32 = 0xffff_ff01;
pub const NO_ADVERTISE: u32 = 0xffff_ff02;
pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
