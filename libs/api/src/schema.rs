//! The schema of every kind: which fields a document may have, and the form of each value.
//!
//! One table per kind (Calico `api/pkg/apis/projectcalico/v3`), read by [`crate::validate`]. Object names are those of
//! Calico's Go types, because its messages name them (`BGPPeerSpec.spec.asNumber`). A kind that others own and that we only
//! read (Pod, Namespace) is open: fields that the table does not name are carried.

mod tables;

use crate::kind::Kind;

/// What a field's value must be.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    Text(Format),
    Bool,
    /// A whole number from `.0` to `.1`.
    Int(i64, i64),
    /// An AS number: a number, or a string in plain or dotted form.
    As,
    /// A port number or the name of a port.
    Port,
    Object(&'static Object),
    List(&'static Type),
    /// String keys, string values.
    Map,
    /// Carried as it is.
    Any,
}

/// The form of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Free,
    /// An object's name: RFC 1123 subdomain.
    Name,
    /// An address with a prefix length, host bits zero or not.
    Cidr,
    /// A CIDR, or an address that stands for itself.
    CidrOrIp,
    Ip,
    Ipv4,
    /// `ip`, `ip:port`, `[ip6]:port`.
    IpPort,
    Selector,
    /// Go's form: `90s`, `1m30s`.
    Duration,
    /// A duration within bounds.
    Within(&'static Span),
    /// `aa:nn` or `aa:nn:mm`.
    Community,
    /// At most 15 characters (Linux `IFNAMSIZ`), `*` allowed.
    Interface,
    OneOf(&'static [&'static str]),
}

/// Bounds of a duration.
#[derive(Debug, PartialEq, Eq)]
pub struct Span {
    pub least: std::time::Duration,
    pub most: std::time::Duration,
    /// Whether zero is allowed too.
    pub or_zero: bool,
    /// Where the bounds come from; may be empty.
    pub source: &'static str,
    /// What to write instead.
    pub advice: &'static str,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Type,
    pub required: bool,
}

/// A mapping with known fields.
#[derive(Debug)]
pub struct Object {
    /// The name of Calico's or Kubernetes' Go type.
    pub go_type: &'static str,
    pub fields: &'static [Field],
    /// Fields that are not in the table are carried.
    pub open: bool,
}

impl Object {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|f| f.name == name)
    }

    /// The path below this object at which a field of that name belongs, nearest first.
    pub fn locate(&self, name: &str) -> Option<String> {
        if self.field(name).is_some() {
            return Some(name.to_string());
        }
        self.fields.iter().find_map(|f| {
            let inner = match f.kind {
                Type::Object(o) => o,
                Type::List(Type::Object(o)) => o,
                _ => return None,
            };
            inner.locate(name).map(|rest| format!("{}.{rest}", f.name))
        })
    }
}

/// The schema of a kind's documents.
pub fn of(kind: Kind) -> &'static Object {
    tables::of(kind)
}

/// The schema of a Kubernetes Node (`v1`), of which only the metadata and the addresses are read.
pub fn kubernetes_node() -> &'static Object {
    &tables::KUBERNETES_NODE
}
