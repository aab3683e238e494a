//! decode: octets explained.

use std::io::Read as _;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, anyhow, bail};
use bgp_proto::wire::attribute::Context;
use bgp_proto::wire::judge::{judge, parse_hex};

use crate::cli::Output;
use crate::cli::bgp::{DecodeArgs, FamilyName};
use crate::output;

/// Octets of a line of a dump, at most.
const DUMP_LINE: usize = 32;

/// Explains what is on standard input.
pub fn decode(args: &DecodeArgs) -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input as text")?;
    let octets = parse_hex(&without_offsets(&text)).map_err(|e| anyhow!("standard input: {e}"))?;
    if octets.is_empty() {
        bail!("standard input has no octets; give hexadecimal digits, as tcpdump -x, xxd or Wireshark print them");
    }
    let messages = judge(&context(args), &octets);
    let output = if matches!(args.output, Output::Yaml) { Output::Yaml } else { Output::Json };
    if let Some(text) = output::structured(&messages, output)? {
        output::print(&text);
    }
    Ok(())
}

/// The session that the messages are taken to be of.
fn context(args: &DecodeArgs) -> Context {
    let add_path = |family| args.add_path.contains(&family);
    Context {
        four_octet_as: !args.two_octet_as,
        ibgp: args.ibgp,
        ipv4: true,
        ipv6: true,
        add_path_receive: [add_path(FamilyName::Ipv4), add_path(FamilyName::Ipv6)],
        extended_next_hop: true,
        extended_messages: args.extended_messages,
        local_address: Ipv4Addr::UNSPECIFIED.into(),
        first_as: None,
    }
}

/// The digits of a dump: without the offset at the beginning of each line and the characters at its end, where the first word
/// of every line is one (`0010:`, `0x0010:`, `00000010  `, as tcpdump, xxd, hexdump and Wireshark write them).
fn without_offsets(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let offset = |i: usize| {
        let line = lines[i];
        let first = line.split_whitespace().next().unwrap_or_default();
        let digits = first.strip_suffix(':').unwrap_or(first);
        let is_marked = first.len() > digits.len() || digits.starts_with("0x");
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        let wide = is_marked || matches!(digits.len(), 4 | 6 | 7 | 8);
        // hexdump ends with an offset alone.
        let has_more = line.split_whitespace().count() > 1 || i + 1 == lines.len();
        usize::from_str_radix(digits, 16).ok().filter(|_| wide && has_more)
    };
    let offsets: Vec<Option<usize>> = (0..lines.len()).map(offset).collect();
    let is_dump = offsets.first() == Some(&Some(0))
        && offsets.windows(2).all(|w| matches!(w, [Some(a), Some(b)] if a < b && b - a <= DUMP_LINE));
    if !is_dump {
        return text.into();
    }
    let octets = |(i, line): (usize, &&str)| {
        let most = match offsets.get(i + 1).copied().flatten() {
            Some(next) => next - offsets[i].unwrap_or(0),
            None => DUMP_LINE,
        };
        digits(line, most)
    };
    lines.iter().enumerate().map(octets).collect::<Vec<_>>().join(" ")
}

/// The words of a line after its offset, up to so many octets, and up to the first that is not of digits alone.
fn digits(line: &str, octets: usize) -> String {
    let (_, rest) = line.trim_start().split_once(char::is_whitespace).unwrap_or_default();
    // What follows two blanks after the octets, or a bar, is the same as text.
    let rest = rest.split(" |").next().unwrap_or_default();
    let mut taken = Vec::new();
    let mut count = 0;
    for word in rest.split_whitespace() {
        let is_octets = word.len() % 2 == 0 && word.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_octets || count + word.len() / 2 > octets {
            break;
        }
        count += word.len() / 2;
        taken.push(word);
    }
    taken.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_found_in_any_dump() {
        let keepalive = [&[0xff; 16][..], &[0, 19, 4]].concat();
        let plain = "ffffffffffffffffffffffffffffffff001304";
        let rows = [
            plain.to_string(),
            "ff ff ff ff ff ff ff ff\nff ff ff ff ff ff ff ff 00 13 04\n".into(),
            "ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:00:13:04".into(),
            "\t0x0000:  ffff ffff ffff ffff ffff ffff ffff ffff\n\t0x0010:  0013 04\n".into(),
            "00000000: ffff ffff ffff ffff ffff ffff ffff ffff  ................\n00000010: 0013 04                                  ...\n".into(),
            "00000000  ff ff ff ff ff ff ff ff  ff ff ff ff ff ff ff ff  |................|\n00000010  00 13 04  |...|\n00000013\n".into(),
            "0000   ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff   ................\n0010   00 13 04   ...\n".into(),
        ];
        for text in rows {
            assert_eq!(parse_hex(&without_offsets(&text)), Ok(keepalive.clone()), "{text}");
        }
    }
}
