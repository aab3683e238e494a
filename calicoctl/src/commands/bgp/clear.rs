//! clear: sessions anew, or (soft) only their routes.

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::{SOCKET, path};
use crate::cli::bgp::ClearArgs;
use crate::output;

/// What the words of the command line ask for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    /// `in`, `out` or `both`; absent: the session itself.
    soft: Option<&'static str>,
    /// An address, or `all`.
    peer: &'a str,
}

/// Clears.
pub async fn clear(args: &ClearArgs) -> Result<()> {
    let wanted = wanted(&args.words)?;
    if wanted.soft.is_some() && args.message.is_some() {
        bail!("--message goes with the end of a session: leave out soft, or the message");
    }
    let query = [
        ("peer", Some(wanted.peer).filter(|p| *p != "all")),
        ("soft", wanted.soft),
        ("message", args.message.as_deref()),
    ];
    let (socket, path) = (args.socket.run_dir.join(SOCKET), path("/v1/clear", &query));
    let reply = status::post(&socket, &path).await.and_then(|r| r.ok(&socket, &path)).map_err(|e| anyhow!("{e}"))?;
    let answer: Value = serde_json::from_slice(&reply.body)?;
    match output::structured(&answer, args.socket.output)? {
        Some(text) => output::print(&text),
        None => output::print(&text(&answer, wanted.soft)),
    }
    Ok(())
}

fn wanted(words: &[String]) -> Result<Wanted<'_>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_peer = |word: &str| !matches!(word, "soft" | "in" | "out");
    match words[..] {
        [peer] if is_peer(peer) => Ok(Wanted { soft: None, peer }),
        ["soft", peer] if is_peer(peer) => Ok(Wanted { soft: Some("both"), peer }),
        ["soft", "in", peer] if is_peer(peer) => Ok(Wanted { soft: Some("in"), peer }),
        ["soft", "out", peer] if is_peer(peer) => Ok(Wanted { soft: Some("out"), peer }),
        _ => bail!("say which peer: clear 192.0.2.1, clear soft in 192.0.2.1, or clear soft all"),
    }
}

fn text(answer: &Value, soft: Option<&str>) -> String {
    let what = match soft {
        None => "begun anew",
        Some("in") => "looked at again, what the peer announces",
        Some("out") => "sent again, what the peer is told",
        Some(_) => "looked at and sent again, both directions",
    };
    let count = answer["cleared"].as_u64().unwrap_or(0);
    format!("{count} session{}: {what}\n", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_is_cleared() {
        let rows: [(&[&str], Option<Wanted<'_>>); 7] = [
            (&["all"], Some(Wanted { soft: None, peer: "all" })),
            (&["soft", "192.0.2.1"], Some(Wanted { soft: Some("both"), peer: "192.0.2.1" })),
            (&["soft", "in", "all"], Some(Wanted { soft: Some("in"), peer: "all" })),
            (&["soft", "out", "all"], Some(Wanted { soft: Some("out"), peer: "all" })),
            (&["soft"], None),
            (&["soft", "in"], None),
            (&["192.0.2.1", "192.0.2.2"], None),
        ];
        for (words, want) in rows {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            assert_eq!(wanted(&words).ok(), want, "{words:?}");
        }
    }
}
