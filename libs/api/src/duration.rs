//! Durations as users write them: Go's form, `9s`, `1m30s`, `1.5h`, `500ms` (Go `time.ParseDuration`), without a sign.

use std::time::Duration;

/// The signs for micro are two: U+00B5 and U+03BC.
const UNITS: [(&str, f64); 8] = [
    ("ms", 1e-3),
    ("us", 1e-6),
    ("\u{b5}s", 1e-6),
    ("\u{3bc}s", 1e-6),
    ("ns", 1e-9),
    ("h", 3600.0),
    ("m", 60.0),
    ("s", 1.0),
];

/// Parses a duration; `None` for a text that is none. A bare `0` has no unit.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, secs) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        total += number.parse::<f64>().ok()? * secs;
        rest = &after[unit.len()..];
    }
    Duration::try_from_secs_f64(total).ok()
}

/// A duration in the same form: `1h30m`, `90s` as `1m30s`, `500ms`.
pub fn format(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".into();
    }
    let mut text = String::new();
    let (secs, millis) = (duration.as_secs(), duration.subsec_millis());
    for (amount, unit) in [(secs / 3600, "h"), (secs / 60 % 60, "m"), (secs % 60, "s"), (millis.into(), "ms")] {
        if amount > 0 {
            text.push_str(&format!("{amount}{unit}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let rows = [
            ("9s", Some(9_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1500\u{b5}s500\u{3bc}s", Some(2)),
        ];
        let wrong =
            ["", " ", " 90s ", "90s\n", "9", "s", "1d", "-3s", "9 s", "5x", "soon", "..s"].map(|text| (text, None));
        for (text, millis) in rows.into_iter().chain(wrong) {
            assert_eq!(parse(text).map(|d| d.as_millis()), millis, "{text:?}");
        }
    }

    #[test]
    fn what_is_formatted_is_read() {
        for (millis, text) in
            [(0, "0s"), (90_000, "1m30s"), (5_400_000, "1h30m"), (300, "300ms"), (65_535_000, "18h12m15s")]
        {
            let duration = Duration::from_millis(millis);
            assert_eq!(format(duration), text);
            assert_eq!(parse(text), Some(duration));
        }
    }
}
