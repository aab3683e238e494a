//! Import and export rules (Calico's BGPFilter, compiled) as a function of one route.
//!
//! Rules are tried in order; the first whose every condition holds decides, an Accept after its operations.
//! Where none matches: a learned route takes [`Policy::default`], a route of our own the verdict it was originated with.

use serde::{Deserialize, Serialize};

use crate::af::{Family, Prefix};

/// Calico's route priority is a metric; LOCAL_PREF is this minus the priority (Calico's BIRD templates).
pub const PRIORITY_BASE: u32 = 2_147_483_647;

/// Whether a route passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    #[default]
    Accept,
    Reject,
}

/// Ordered rules, and what a learned route gets that none of them matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub rules: Vec<Rule>,
    pub default: Action,
}

/// One rule; an absent condition holds for every route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Where it is written, for explanations: `BGPFilter x, importV4[2]`. Decides nothing.
    #[serde(default)]
    pub name: String,
    /// BGPFilter keeps one list for each family.
    pub family: Option<Family>,
    pub prefix: Option<PrefixMatch>,
    pub source: Option<Source>,
    /// Name of the kernel interface of the route, `*` at the end matches any rest. Learned routes have none.
    pub interface: Option<String>,
    pub peer_type: Option<SessionType>,
    /// The route carries all of these.
    pub communities: Vec<Community>,
    /// The AS_PATH begins with these.
    pub as_path_prefix: Vec<u32>,
    /// Calico's priority: `PRIORITY_BASE` minus LOCAL_PREF.
    pub priority: Option<u32>,
    pub action: Action,
    /// Applied in order before an Accept.
    pub operations: Vec<Operation>,
}

/// A prefix condition of BGPFilter: `cidr`, `matchOperator`, `prefixLength`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixMatch {
    pub prefix: Prefix,
    pub operator: MatchOperator,
    /// Bounds of the route's length, both included.
    pub min_len: Option<u8>,
    pub max_len: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchOperator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

/// Where a route came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Learned by BGP (BGPFilter's `source: RemotePeers`).
    RemotePeers,
    /// Originated by this speaker.
    Local,
}

/// The session of the peer that the policy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionType {
    Ebgp,
    Ibgp,
}

/// A community value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Community {
    /// RFC 1997: `aa:nn`, the AS in the upper half.
    Standard(u32),
    /// RFC 8092: `aa:nn:mm`.
    Large(u32, u32, u32),
}

/// What an accepting rule changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    AddCommunity(Community),
    /// List order is the order in the path.
    PrependAsPath(Vec<u32>),
    SetPriority(u32),
}

/// What the rules may look at; implemented over whatever holds a route.
pub trait Route {
    fn prefix(&self) -> Prefix;
    fn is_local(&self) -> bool;
    fn interface(&self) -> Option<&str>;
    fn session_type(&self) -> SessionType;
    fn has_community(&self, community: Community) -> bool;
    /// Whether the AS_PATH begins with these ASes.
    fn as_path_starts_with(&self, ases: &[u32]) -> bool;
    fn local_pref(&self) -> u32;
}

impl Policy {
    /// The first matching rule, if any.
    pub fn decide(&self, route: &impl Route) -> Option<&Rule> {
        self.rules.iter().find(|r| r.matches(route))
    }

    /// Whether every route of the family passes unchanged, so that nobody need look at it.
    pub fn accepts_all(&self, family: Family) -> bool {
        self.rules.iter().find(|r| r.family.is_none_or(|f| f == family)).is_some_and(Rule::accepts_all)
    }
}

impl Rule {
    /// Whether it lets every route of its family pass unchanged.
    fn accepts_all(&self) -> bool {
        let Rule {
            name: _,
            family: _,
            prefix: None,
            source: None,
            interface: None,
            peer_type: None,
            communities,
            as_path_prefix,
            priority: None,
            action: Action::Accept,
            operations,
        } = self
        else {
            return false;
        };
        communities.is_empty() && as_path_prefix.is_empty() && operations.is_empty()
    }

    fn matches(&self, route: &impl Route) -> bool {
        let prefix = route.prefix();
        self.family.is_none_or(|f| f == prefix.family())
            && self.prefix.is_none_or(|m| m.matches(prefix))
            && self.source.is_none_or(|s| (s == Source::Local) == route.is_local())
            && self.peer_type.is_none_or(|t| t == route.session_type())
            && self.interface.as_deref().is_none_or(|pattern| route.interface().is_some_and(|i| wildcard(pattern, i)))
            && self.priority.is_none_or(|p| PRIORITY_BASE.saturating_sub(route.local_pref()) == p)
            && self.communities.iter().all(|&c| route.has_community(c))
            && (self.as_path_prefix.is_empty() || route.as_path_starts_with(&self.as_path_prefix))
    }
}

impl PrefixMatch {
    fn matches(self, route: Prefix) -> bool {
        if route.family() != self.prefix.family() {
            return false;
        }
        let within = self.min_len.is_none_or(|m| m <= route.len()) && self.max_len.is_none_or(|m| route.len() <= m);
        let ranged = self.min_len.is_some() || self.max_len.is_some();
        match self.operator {
            // Calico renders a prefixLength as `net ~ [cidr{min,max}]`: with it, Equal is In within the bounds.
            MatchOperator::Equal if ranged => self.prefix.contains(route) && within,
            MatchOperator::NotEqual if ranged => !(self.prefix.contains(route) && within),
            MatchOperator::Equal => route == self.prefix,
            MatchOperator::NotEqual => route != self.prefix,
            MatchOperator::In => self.prefix.contains(route) && within,
            MatchOperator::NotIn => !(self.prefix.contains(route) && within),
        }
    }
}

/// Calico's interface wildcard (BGPFilter, ignoredInterfaces): `*` stands for any characters.
pub fn wildcard(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).any(|i| tail.is_char_boundary(i) && wildcard(rest, &tail[i..]))),
    }
}
