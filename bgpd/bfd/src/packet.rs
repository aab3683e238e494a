//! The BFD control packet (RFC 5880 section 4.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::fmt;

/// The mandatory section.
pub const LEN: usize = 24;
/// With the shortest authentication section (RFC 5880 section 6.8.6).
const LEN_WITH_AUTHENTICATION: usize = 26;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// `Sta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    AdminDown = 0,
    Down = 1,
    Init = 2,
    Up = 3,
}

impl State {
    pub const ALL: [State; 4] = [State::AdminDown, State::Down, State::Init, State::Up];

    /// As in the RFC.
    pub fn name(self) -> &'static str {
        match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        }
    }
}

/// `Diag`: why a session last went down (IANA "BFD Diagnostic Codes").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diag(pub u8);

impl Diag {
    pub const NONE: Diag = Diag(0);
    pub const DETECTION_TIME_EXPIRED: Diag = Diag(1);
    pub const NEIGHBOUR_SIGNALED_DOWN: Diag = Diag(3);
    pub const PATH_DOWN: Diag = Diag(5);
    pub const ADMINISTRATIVELY_DOWN: Diag = Diag(7);
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            0 => "No Diagnostic",
            1 => "Control Detection Time Expired",
            2 => "Echo Function Failed",
            3 => "Neighbor Signaled Session Down",
            4 => "Forwarding Plane Reset",
            5 => "Path Down",
            6 => "Concatenated Path Down",
            7 => "Administratively Down",
            8 => "Reverse Concatenated Path Down",
            9 => "Mis-connectivity Defect",
            other => return write!(f, "diagnostic {other}"),
        };
        f.write_str(words)
    }
}

/// Microseconds, as intervals travel.
pub type Micros = u32;

/// A control packet that passed the checks which need no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub diag: Diag,
    pub state: State,
    pub poll: bool,
    /// `F`.
    pub is_final: bool,
    pub control_plane_independent: bool,
    /// An authentication section follows; it is not looked at.
    pub authenticated: bool,
    pub demand: bool,
    /// Not 0.
    pub multiplier: u8,
    /// Not 0.
    pub my_discriminator: u32,
    /// 0 where the sender does not know it yet, and then its state is Down or AdminDown.
    pub your_discriminator: u32,
    pub desired_min_tx: Micros,
    pub required_min_rx: Micros,
    pub required_min_echo_rx: Micros,
}

/// Why a packet is discarded (RFC 5880 section 6.8.6, RFC 5881 section 5), in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// It was routed: TTL or hop limit is not 255.
    Ttl,
    Version,
    /// Shorter than it must be, or than it says.
    Length,
    MultiplierZero,
    Multipoint,
    MyDiscriminatorZero,
    /// Your Discriminator names none of our sessions, or none with that peer is configured.
    NoSession,
    /// Your Discriminator is 0 in Init or Up.
    YourDiscriminatorZero,
    /// We have no authentication.
    Authenticated,
}

impl Packet {
    /// Reads the payload of a UDP packet.
    ///
    /// # Errors
    /// The first check of RFC 5880 section 6.8.6 that fails, of those that need no session.
    pub fn read(payload: &[u8]) -> Result<Packet, Discard> {
        let octet = |i: usize| payload.get(i).copied().ok_or(Discard::Length);
        let [first, second, multiplier, length] = [octet(0)?, octet(1)?, octet(2)?, octet(3)?];
        if first >> 5 != VERSION {
            return Err(Discard::Version);
        }
        let authenticated = second & AUTHENTICATION != 0;
        let least = if authenticated { LEN_WITH_AUTHENTICATION } else { LEN };
        if usize::from(length) < least || usize::from(length) > payload.len() {
            return Err(Discard::Length);
        }
        if multiplier == 0 {
            return Err(Discard::MultiplierZero);
        }
        if second & MULTIPOINT != 0 {
            return Err(Discard::Multipoint);
        }
        let mut words = payload[4..LEN].chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
        let mut word = || words.next().ok_or(Discard::Length);
        let packet = Packet {
            diag: Diag(first & 0x1f),
            state: State::ALL[usize::from(second >> 6)],
            poll: second & POLL != 0,
            is_final: second & FINAL != 0,
            control_plane_independent: second & CONTROL_PLANE_INDEPENDENT != 0,
            authenticated,
            demand: second & DEMAND != 0,
            multiplier,
            my_discriminator: word()?,
            your_discriminator: word()?,
            desired_min_tx: word()?,
            required_min_rx: word()?,
            required_min_echo_rx: word()?,
        };
        if packet.my_discriminator == 0 {
            return Err(Discard::MyDiscriminatorZero);
        }
        if packet.your_discriminator == 0 && !matches!(packet.state, State::Down | State::AdminDown) {
            return Err(Discard::YourDiscriminatorZero);
        }
        Ok(packet)
    }

    /// Without an authentication section, whatever `authenticated` says.
    pub fn write(&self) -> [u8; LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut octets = [0; LEN];
        octets[0] = VERSION << 5 | (self.diag.0 & 0x1f);
        octets[1] = (self.state as u8) << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        octets[2] = self.multiplier;
        octets[3] = LEN as u8;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (place, word) in octets[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        octets
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Laid out by hand after RFC 5880 section 4.1: Up with P set.
    const UP: [u8; LEN] = [
        0x20, 0xe0, 0x03, 0x18, 0x59, 0x8f, 0xe0, 0x12, 0x00, 0x00, 0x00, 0x2a, 0x00, 0x00, 0xc3, 0x50, 0x00, 0x00,
        0xc3, 0x50, 0x00, 0x00, 0xc3, 0x50,
    ];

    #[test]
    fn a_packet_is_its_octets() {
        let packet = Packet {
            diag: Diag::NONE,
            state: State::Up,
            poll: true,
            is_final: false,
            control_plane_independent: false,
            authenticated: false,
            demand: false,
            multiplier: 3,
            my_discriminator: 0x598f_e012,
            your_discriminator: 42,
            desired_min_tx: 50_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 50_000,
        };
        assert_eq!(Packet::read(&UP), Ok(packet));
        assert_eq!(packet.write(), UP);
    }

    /// What is changed in a good packet, and why it is discarded then.
    type Row = (&'static str, fn(&mut Vec<u8>), Option<Discard>);

    const CHECKS: &[Row] = &[
        ("unchanged", |_| {}, None),
        ("version 0", |p| p[0] = 0, Some(Discard::Version)),
        ("version 2", |p| p[0] = 2 << 5, Some(Discard::Version)),
        ("Length 23", |p| p[3] = 23, Some(Discard::Length)),
        ("Length 25 with A", |p| (p[1], p[3]) = (0xc0 | AUTHENTICATION, 25), Some(Discard::Length)),
        ("Length more than the payload", |p| p[3] = 25, Some(Discard::Length)),
        ("payload less than Length", |p| p.truncate(23), Some(Discard::Length)),
        ("three octets", |p| p.truncate(3), Some(Discard::Length)),
        ("nothing", |p| p.clear(), Some(Discard::Length)),
        ("payload more than Length", |p| p.extend([0; 40]), None),
        ("Detect Mult 0", |p| p[2] = 0, Some(Discard::MultiplierZero)),
        ("M set", |p| p[1] |= MULTIPOINT, Some(Discard::Multipoint)),
        ("My Discriminator 0", |p| p[4..8].fill(0), Some(Discard::MyDiscriminatorZero)),
        ("Your Discriminator 0 in Up", |p| p[8..12].fill(0), Some(Discard::YourDiscriminatorZero)),
        (
            "Your Discriminator 0 in Init",
            |p| {
                p[1] = (State::Init as u8) << 6;
                p[8..12].fill(0);
            },
            Some(Discard::YourDiscriminatorZero),
        ),
        (
            "Your Discriminator 0 in Down",
            |p| {
                p[1] = (State::Down as u8) << 6;
                p[8..12].fill(0);
            },
            None,
        ),
        (
            "Your Discriminator 0 in AdminDown",
            |p| {
                p[1] = 0;
                p[8..12].fill(0);
            },
            None,
        ),
        // Section 6.8.6 checks in this order.
        ("version before Length", |p| (p[0], p[3]) = (0, 0), Some(Discard::Version)),
        ("Length before Detect Mult", |p| (p[2], p[3]) = (0, 0), Some(Discard::Length)),
        ("Detect Mult before M", |p| (p[1], p[2]) = (0xc0 | MULTIPOINT, 0), Some(Discard::MultiplierZero)),
        (
            "M before My Discriminator",
            |p| {
                p[1] |= MULTIPOINT;
                p[4..8].fill(0);
            },
            Some(Discard::Multipoint),
        ),
        ("My before Your Discriminator", |p| p[4..12].fill(0), Some(Discard::MyDiscriminatorZero)),
    ];

    #[test]
    fn reception_checks_of_section_6_8_6() {
        for (what, change, reason) in CHECKS {
            let mut octets = UP.to_vec();
            change(&mut octets);
            assert_eq!(Packet::read(&octets).err(), *reason, "{what}");
        }
    }

    #[test]
    fn an_authentication_section_is_seen_but_not_read() {
        let mut octets = UP.to_vec();
        octets[1] |= AUTHENTICATION;
        octets[3] = 26;
        octets.extend([1, 2]);
        assert!(Packet::read(&octets).unwrap().authenticated);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(packet) = Packet::read(&octets) {
                let again = Packet::read(&packet.write()).unwrap();
                prop_assert_eq!(again, Packet { authenticated: false, ..packet });
            }
        }

        #[test]
        fn every_good_packet_survives_its_wire_form(
            words in any::<[u32; 5]>(), flags in any::<u8>(), diag in 0..32u8, multiplier in 1..=255u8
        ) {
            let mut octets = vec![VERSION << 5 | diag, flags & !(MULTIPOINT | AUTHENTICATION), multiplier, LEN as u8];
            octets.extend(words.iter().flat_map(|w| w.to_be_bytes()));
            match Packet::read(&octets) {
                Ok(packet) => prop_assert_eq!(&packet.write()[..], &octets[..]),
                Err(reason) => prop_assert!(matches!(
                    reason,
                    Discard::MyDiscriminatorZero | Discard::YourDiscriminatorZero
                )),
            }
        }
    }
}
