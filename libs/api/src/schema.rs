//! The schema of every kind: which fields a document may have, and the form of each value.
//!
//! One table per kind (Calico `api/pkg/apis/projectcalico/v3`), read by [`crate::validate`]. Object names are those of
//! Calico's Go types, because its messages name them (`BGPPeerSpec.spec.asNumber`). A kind that others own and that we only
//! read (Pod, Namespace) is open: fields that the table does not name are carried.

mod tables;

use serde_json::Value;

use crate::kind::Kind;

/// What a Kubernetes API server fills in where a field is absent (Calico's): the object, the field, the value. It is in the
/// definitions, and so in what is read back.
pub const SERVER_DEFAULTS: [(&str, &str, &str); 2] =
    [("IPPoolSpec", "nodeSelector", "all()"), ("IPPoolSpec", "assignmentMode", "Automatic")];

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
    /// Port numbers from one to another, `30000:32767`, or one.
    PortRange,
    /// The name of an IP protocol, or its number.
    Protocol,
    Object(&'static Object),
    List(&'static Type),
    /// A list of at least `.1` and at most `.2` items, as the definitions say; [`crate::validate`] has a rule of its own.
    Items(&'static Type, usize, usize),
    /// A list that names nothing twice, with at most so many items.
    Set(&'static Type, usize),
    /// String keys, string values.
    Map,
    /// String keys, whole numbers that are not negative.
    Counts,
    /// Null, or a value of this type.
    Nullable(&'static Type),
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
    Ipv6,
    /// Six or more bytes in hexadecimal, `ee:ee:ee:ee:ee:ee`.
    Mac,
    /// RFC 3339.
    Time,
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
    /// What a regular expression says.
    Matches(&'static Pattern),
    /// A regular expression.
    Regex,
    /// Names of interfaces with commas between them; a regular expression stands between slashes.
    InterfacePatterns,
    OneOf(&'static [&'static str]),
    /// The same in upper or lower case.
    AnyCase(&'static [&'static str]),
}

/// The form of a string as a regular expression (Calico's).
#[derive(Debug, PartialEq, Eq)]
pub struct Pattern {
    pub regex: &'static str,
    /// The form in a few words.
    pub about: &'static str,
    pub example: &'static str,
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
    /// What counts where the field is absent, as it reads in a text; may be empty.
    pub default: &'static str,
    /// One line for the reader of the reference; may be empty.
    pub about: &'static str,
    /// What the API server checks of the field by itself.
    pub rules: &'static [Rule],
    /// No program here acts on it: it is checked and stored, and whoever applies it is told so.
    pub is_inert: bool,
}

/// What is said of an inert field.
pub const INERT: &str = "stored, not active";

impl Field {
    /// With a default.
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// With a line about it.
    pub const fn is(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    /// One that no program here acts on.
    pub const fn inert(mut self) -> Self {
        self.is_inert = true;
        self
    }

    /// What the reference says of it.
    pub fn text(&self) -> String {
        match (self.is_inert, self.about) {
            (false, about) => about.into(),
            (true, "") => INERT.into(),
            (true, about) => format!("{INERT}: {about}"),
        }
    }

    /// With rules.
    pub const fn under(mut self, rules: &'static [Rule]) -> Self {
        self.rules = rules;
        self
    }
}

/// A rule in the Common Expression Language, and what the API server says where it does not hold. [`crate::validate`] has each
/// rule too, with the same words.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub cel: &'static str,
    pub message: &'static str,
}

/// A mapping with known fields.
#[derive(Debug)]
pub struct Object {
    /// The name of Calico's or Kubernetes' Go type.
    pub go_type: &'static str,
    pub fields: &'static [Field],
    /// Fields that are not in the table are carried.
    pub open: bool,
    /// Exactly one of its fields is set.
    pub is_choice: bool,
    /// Rules between its fields.
    pub rules: &'static [Rule],
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
        self.fields.iter().find_map(|f| f.kind.object()?.locate(name).map(|rest| format!("{}.{rest}", f.name)))
    }
}

impl Type {
    /// The mapping that a value is, or a list of which it is.
    pub fn object(self) -> Option<&'static Object> {
        match self {
            Self::Object(object) => Some(object),
            Self::List(item) | Self::Items(item, ..) | Self::Set(item, _) | Self::Nullable(item) => item.object(),
            _ => None,
        }
    }
}

/// The schema of a kind's documents.
pub fn of(kind: Kind) -> &'static Object {
    tables::of(kind)
}

/// Fills a document in as an API server does.
pub fn fill_as_the_server(kind: Kind, document: &mut Value) {
    let Some(object) = of(kind).field("spec").and_then(|f| f.kind.object()) else { return };
    let Some(spec) = document.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for (_, field, value) in SERVER_DEFAULTS.iter().filter(|(of, ..)| *of == object.go_type) {
        if spec.get(*field).is_none_or(Value::is_null) {
            spec.insert((*field).into(), (*value).into());
        }
    }
}

/// The records of IPAM that the Kubernetes API stores in definitions of their own: kind, plural and schema.
pub fn records() -> [(&'static str, &'static str, &'static Object); 4] {
    tables::ipam::RECORDS
}

/// The schema of a Kubernetes Node (`v1`), of which only the metadata and the addresses are read.
pub fn kubernetes_node() -> &'static Object {
    &tables::KUBERNETES_NODE
}
