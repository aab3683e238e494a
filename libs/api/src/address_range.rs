//! A range of addresses, first to last, both included.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of one family; `first` is not above `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// `None` where the families differ or the first is above the last.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    pub fn first(&self) -> IpAddr {
        self.first
    }

    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// How many addresses; all of IPv6 are one more than fit and count as `u128::MAX`.
    pub fn len(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    /// A range has at least one address.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// The range without its first and last address; a range of one or two is left as it is.
    pub fn without_ends(self) -> Self {
        if self.len() <= 2 {
            return self;
        }
        Self { first: shifted(self.first, 1), last: shifted(self.last, -1) }
    }
}

impl From<IpNet> for AddressRange {
    fn from(cidr: IpNet) -> Self {
        Self { first: cidr.network(), last: cidr.broadcast() }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// The address `by` away; the caller stays within its family.
fn shifted(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(a) => Ipv4Addr::from(u32::from(a).wrapping_add_signed(by.into())).into(),
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a).wrapping_add_signed(by.into())).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str) -> Option<AddressRange> {
        AddressRange::new(first.parse().unwrap(), last.parse().unwrap())
    }

    #[test]
    fn counts_and_ends() {
        let cidr = |s: &str| AddressRange::from(s.parse::<IpNet>().unwrap());
        for (cidr, all, inner) in [
            (cidr("20.0.10.0/24"), 256, 254),
            (cidr("10.0.0.0/30"), 4, 2),
            (cidr("10.0.0.0/31"), 2, 2),
            (cidr("10.0.0.0/32"), 1, 1),
            (cidr("0.0.0.0/0"), 1 << 32, (1 << 32) - 2),
            (cidr("fd00::/64"), 1 << 64, (1 << 64) - 2),
            (cidr("fd00::/127"), 2, 2),
            (cidr("::/0"), u128::MAX, u128::MAX - 1),
        ] {
            assert_eq!((cidr.len(), cidr.without_ends().len()), (all, inner), "{cidr}");
        }
        assert_eq!(cidr("10.0.0.0/30").without_ends(), range("10.0.0.1", "10.0.0.2").unwrap());
        assert_eq!(range("10.0.0.2", "10.0.0.1"), None);
        assert_eq!(range("10.0.0.2", "fd00::1"), None);
    }

    #[test]
    fn families_never_meet() {
        let v4 = range("0.0.0.0", "255.255.255.255").unwrap();
        let v6 = range("::", "::ffff").unwrap();
        assert!(!v4.overlaps(&v6) && !v6.contains("0.0.0.1".parse().unwrap()));
        assert!(range("10.0.0.1", "10.0.0.5").unwrap().overlaps(&range("10.0.0.5", "10.0.0.9").unwrap()));
        assert!(!range("10.0.0.1", "10.0.0.4").unwrap().overlaps(&range("10.0.0.5", "10.0.0.9").unwrap()));
    }
}
