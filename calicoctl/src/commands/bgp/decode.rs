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

/// The marker of a message (RFC 4271 section 4.1).
const MARKER: [u8; 16] = [0xff; 16];

/// Explains what is on standard input.
pub fn decode(args: &DecodeArgs) -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).context("cannot read standard input")?;
    let octets = octets(&input).map_err(|e| anyhow!("standard input{e}"))?;
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

/// The octets of what somebody pasted: messages as they are, digits in any form, or dumps of packets with the headers around.
///
/// # Errors
/// What is no digit and where, to follow the name of the input.
fn octets(input: &[u8]) -> Result<Vec<u8>, String> {
    if input.starts_with(&MARKER) {
        return Ok(input.to_vec());
    }
    let wrong = ": it is neither text nor BGP messages; give hexadecimal digits, as xxd -p prints them";
    let text = std::str::from_utf8(input).map_err(|_| wrong.to_string())?;
    let dumps = dumps(text);
    if dumps.is_empty() {
        return parse_hex(&separated(text)).map_err(|e| match first_that_is_no_digit(text) {
            Some((line, column)) => format!(", line {line}, column {column}: {e}"),
            None => format!(": {e}"),
        });
    }
    let mut all = Vec::new();
    for dump in dumps {
        let octets = parse_hex(&dump).map_err(|e| format!(": {e}"))?;
        all.extend(without_headers(octets));
    }
    Ok(all)
}

/// Commas, quotes and braces of source code, and `\\x`, are blanks.
fn separated(text: &str) -> String {
    text.replace("\\x", " ").replace([',', ';', '"', '\'', '{', '}', '[', ']'], " ")
}

fn first_that_is_no_digit(text: &str) -> Option<(usize, usize)> {
    let is_fine = |c: char| c.is_ascii_hexdigit() || c.is_whitespace() || ":,;\"'{}[]x\\".contains(c);
    let wrong = |(i, line): (usize, &str)| Some((i + 1, line.chars().position(|c| !is_fine(c))? + 1));
    text.lines().enumerate().find_map(wrong)
}

/// A captured packet without what comes before its first message. One without any, an acknowledgement, is nothing.
fn without_headers(octets: Vec<u8>) -> Vec<u8> {
    // IPv4, IPv6, or the upper half of a unicast Ethernet address; a message begins with ff.
    if octets.first().is_none_or(|first| *first == 0xff) {
        return octets;
    }
    let start = octets.windows(MARKER.len()).position(|w| w == MARKER);
    start.map_or_else(Vec::new, |at| octets[at..].to_vec())
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

/// The digits of each dump in a text: without the offset at the beginning of each line and the characters at its end (`0010:`,
/// `0x0010:`, `00000010  `, as tcpdump, xxd, hexdump and Wireshark write them). Other lines between, as those of tcpdump for
/// each packet, are left out. Empty where nothing looks like a dump.
fn dumps(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let offsets: Vec<Option<usize>> = (0..lines.len())
        .map(|i| offset(lines[i], lines.get(i + 1).is_none_or(|next| !is_next(lines[i], next))))
        .collect();
    let mut dumps = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if offsets[at] != Some(0) {
            // Digits outside of any dump: then it is none.
            if offsets[at].is_some() || parse_hex(lines[at]).is_ok() {
                return Vec::new();
            }
            at += 1;
            continue;
        }
        let mut end = at + 1;
        while let (Some(Some(a)), Some(Some(b))) = (offsets.get(end - 1), offsets.get(end))
            && a < b
            && b - a <= DUMP_LINE
        {
            end += 1;
        }
        let octets = |i: usize| match offsets.get(i + 1).copied().flatten().filter(|_| i + 1 < end) {
            Some(next) => digits(lines[i], next - offsets[i].unwrap_or(0)),
            None => digits(lines[i], DUMP_LINE),
        };
        dumps.push((at..end).map(octets).collect::<Vec<_>>().join(" "));
        at = end;
    }
    dumps
}

/// Whether a line of a dump may be followed by this one.
fn is_next(line: &str, next: &str) -> bool {
    matches!((offset(line, false), offset(next, true)), (Some(a), Some(b)) if a < b)
}

/// The number at the beginning of a line of a dump. hexdump ends with an offset alone.
fn offset(line: &str, is_last: bool) -> Option<usize> {
    let first = line.split_whitespace().next().unwrap_or_default();
    let digits = first.strip_suffix(':').unwrap_or(first);
    let is_marked = first.len() > digits.len() || digits.starts_with("0x");
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let is_wide = is_marked || matches!(digits.len(), 4 | 6 | 7 | 8);
    let has_more = line.split_whitespace().count() > 1 || is_last;
    usize::from_str_radix(digits, 16).ok().filter(|_| is_wide && has_more)
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

    const PLAIN: &str = "ffffffffffffffffffffffffffffffff001304";

    fn keepalive() -> Vec<u8> {
        [&[0xff; 16][..], &[0, 19, 4]].concat()
    }

    #[test]
    fn digits_are_found_in_any_form() {
        let rows = [
            PLAIN.to_string(),
            format!("0x{PLAIN}\r\n"),
            "ff ff ff ff ff ff ff ff\nff ff ff ff ff ff ff ff 00 13 04\n".into(),
            "ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:00:13:04".into(),
            "{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,\n 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x13, 0x04};".into(),
            r#"b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x13\x04""#.replacen('b', "", 1),
            "\t0x0000:  ffff ffff ffff ffff ffff ffff ffff ffff\n\t0x0010:  0013 04\n".into(),
            "00000000: ffff ffff ffff ffff ffff ffff ffff ffff  ................\n00000010: 0013 04                                  ...\n".into(),
            "00000000  ff ff ff ff ff ff ff ff  ff ff ff ff ff ff ff ff  |................|\n00000010  00 13 04  |...|\n00000013\n".into(),
            "0000   ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff   ................\n0010   00 13 04   ...\n".into(),
        ];
        for text in rows {
            assert_eq!(octets(text.as_bytes()), Ok(keepalive()), "{text}");
        }
        assert_eq!(octets(&keepalive()), Ok(keepalive()), "the octets themselves");
    }

    /// `tcpdump -x`: a line for each packet, then the packet with its IP and TCP headers; acknowledgements carry nothing.
    #[test]
    fn packets_of_tcpdump_are_taken_as_they_are_printed() {
        let packet = "\
08:00:46.853000 IP 10.9.0.1.179 > 10.9.0.9.34567: Flags [P.], seq 1:20, ack 1, win 502, length 19: BGP
\t0x0000:  4500 003b 0000 4000 4006 0000 0a09 0001
\t0x0010:  0a09 0009 00b3 8707 0000 0001 0000 0001
\t0x0020:  5018 01f6 0000 0000 ffff ffff ffff ffff
\t0x0030:  ffff ffff ffff ffff 0013 04
";
        let acknowledgement = "\
08:00:46.900000 IP 10.9.0.9.34567 > 10.9.0.1.179: Flags [.], ack 20, win 502, length 0
\t0x0000:  4500 0028 0000 4000 4006 0000 0a09 0009
\t0x0010:  0a09 0001 8707 00b3 0000 0001 0000 0014
\t0x0020:  5010 01f6 0000 0000
";
        let text = [packet, acknowledgement, packet].concat();
        assert_eq!(octets(text.as_bytes()), Ok([keepalive(), keepalive()].concat()));
    }

    #[test]
    fn what_is_no_digit_is_shown_with_its_place() {
        for (input, want) in [
            ("ffff\nff zz", ", line 2, column 4: 'z' is not a hexadecimal digit"),
            ("fff", ": 3 hexadecimal digits are no whole number of octets"),
        ] {
            assert_eq!(octets(input.as_bytes()).unwrap_err(), want);
        }
        assert!(octets(&[0xfe, 0xff, 0x80]).unwrap_err().starts_with(": it is neither text nor BGP messages"));
    }
}
