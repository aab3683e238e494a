//! routes: of a table of any size, as it comes.

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use super::{SOCKET, address, ask, path};
use crate::cli::Output;
use crate::cli::bgp::{RoutesArgs, RoutesView};
use crate::commands::sockets::cell;
use crate::{output, table};

/// Rows that are sorted and laid out together; what follows is printed as it comes.
const SORTED: usize = 10_000;

/// Heading and field; a wide table has them all.
const COLUMNS: [(&str, &str); 14] = [
    ("PREFIX", "prefix"),
    ("NEXT HOP", "nextHop"),
    ("AS PATH", "asPathText"),
    ("LOCAL PREF", "localPref"),
    ("MED", "med"),
    ("COMMUNITIES", "communities"),
    ("PEER", "peer"),
    ("BEST", "best"),
    ("ORIGIN", "origin"),
    ("ACCEPTED", "accepted"),
    ("STALE", "stale"),
    ("PATH ID", "pathId"),
    ("ORIGINATOR", "originatorId"),
    ("CLUSTER LIST", "clusterList"),
];
/// Of those, in a narrow one.
const NARROW: usize = 8;

/// What the words of the command line ask for.
struct Wanted<'a> {
    view: RoutesView,
    /// A prefix or an address, and how routes are to lie to it.
    target: Option<(&'a str, &'static str)>,
}

impl<'a> Wanted<'a> {
    fn new(args: &'a RoutesArgs) -> Result<Self> {
        let view = |word: &str| RoutesView::ALL.into_iter().find(|v| v.name() == word);
        let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
        let (view, target) = match words[..] {
            [] => (RoutesView::Best, None),
            [word] => view(word).map_or((RoutesView::Best, Some(word)), |v| (v, None)),
            [first, target] => match view(first) {
                Some(view) => (view, Some(target)),
                None => bail!("'{first}' is none of best, received and advertised"),
            },
            _ => bail!("give a view (best, received or advertised) and a prefix, as in routes received 10.0.0.0/8"),
        };
        if target.is_none() && (args.exact || args.longer) {
            bail!("--exact and --longer need a prefix, as in routes 10.0.0.0/8 --exact");
        }
        let matching = |target: &str| match (args.exact, args.longer) {
            (true, _) => "exact",
            (false, false) if !target.contains('/') => "covering",
            _ => "longer",
        };
        Ok(Self { view, target: target.map(|t| (t, matching(t))) })
    }
}

/// Shows the routes of one view.
pub async fn routes(args: &RoutesArgs) -> Result<()> {
    let wanted = Wanted::new(args)?;
    let mut printer = Printer::new(args);
    // Of what was received some is not accepted: that is to be seen at once.
    if wanted.view == RoutesView::Received && args.socket.output != Output::Wide {
        printer.columns.push(("ACCEPTED", "accepted"));
    }
    if wanted.view == RoutesView::Advertised && args.peer.is_none() {
        // What is sent to each peer: the daemon answers for one at a time.
        printer.columns.insert(0, ("TO", "to"));
        let peers = ask(&args.socket.run_dir, "/v1/peers").await?;
        // Others are told nothing.
        for peer in peers.as_array().into_iter().flatten().filter(|p| p["up"] == true).map(address) {
            take(args, &wanted, Some(&peer), &mut printer).await?;
        }
    } else {
        take(args, &wanted, args.peer.as_deref(), &mut printer).await?;
    }
    printer.finish()
}

/// Reads the rows of one question.
async fn take(args: &RoutesArgs, wanted: &Wanted<'_>, peer: Option<&str>, printer: &mut Printer) -> Result<()> {
    let communities = args.community.join(",");
    let query = [
        ("view", Some(wanted.view.name())),
        ("peer", peer),
        ("prefix", wanted.target.map(|t| t.0)),
        ("match", wanted.target.map(|t| t.1)),
        ("community", Some(communities.as_str()).filter(|c| !c.is_empty())),
        ("format", Some("lines")),
    ];
    let socket = args.socket.run_dir.join(SOCKET);
    let mut lines = status::lines(&socket, &path("/v1/routes", &query)).await?;
    while !printer.is_full()
        && let Some(line) = lines.next().await?
    {
        let mut row: Value = serde_json::from_str(&line)?;
        if let Some(to) = peer.filter(|_| args.peer.is_none()) {
            row["to"] = to.into();
        }
        printer.row(row)?;
    }
    Ok(())
}

/// Rows on their way to standard output.
struct Printer {
    how: Output,
    columns: Vec<(&'static str, &'static str)>,
    limit: usize,
    count: usize,
    /// Rows that wait for their fellows.
    waiting: Vec<Value>,
    /// The layout of the table, once its head is printed; an empty list of JSON or YAML is begun too.
    widths: Option<Vec<usize>>,
}

impl Printer {
    fn new(args: &RoutesArgs) -> Self {
        let limit = args.limit.unwrap_or(usize::MAX);
        let columns = COLUMNS[..if args.socket.output == Output::Wide { COLUMNS.len() } else { NARROW }].to_vec();
        Self { how: args.socket.output, columns, limit, count: 0, waiting: Vec::new(), widths: None }
    }

    fn is_full(&self) -> bool {
        self.count >= self.limit
    }

    fn row(&mut self, row: Value) -> Result<()> {
        self.count += 1;
        self.waiting.push(row);
        let most = if self.widths.is_none() { SORTED } else { 1000 };
        if self.waiting.len() >= most { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let mut rows = std::mem::take(&mut self.waiting);
        let is_first = self.widths.is_none();
        if is_first {
            rows.sort_by_cached_key(|r| (cell(r, "to"), cell(r, "prefix").parse::<IpNet>().ok()));
        }
        match self.how {
            Output::Json => {
                for row in &rows {
                    let between = if self.widths.is_none() { "[\n" } else { ",\n" };
                    self.widths = Some(Vec::new());
                    output::print(&format!("{between}  {}", serde_json::to_string(row)?));
                }
            }
            Output::Yaml => {
                self.widths = Some(Vec::new());
                if !rows.is_empty() {
                    output::print(&crate::yaml::emit(Value::Array(rows))?);
                }
            }
            Output::Ps | Output::Wide => self.table(rows),
        }
        Ok(())
    }

    fn table(&mut self, rows: Vec<Value>) {
        let headings: Vec<&str> = self.columns.iter().map(|c| c.0).collect();
        let mut cells: Vec<Vec<String>> = rows.iter().map(|row| self.cells(row)).collect();
        let is_first = self.widths.is_none();
        let widths = self.widths.get_or_insert_with(|| table::widths(&headings, &cells, output::width()));
        if output::width().is_some() {
            table::cut(&mut cells, widths);
        }
        if is_first {
            cells.insert(0, headings.iter().map(ToString::to_string).collect());
        }
        output::print(&cells.iter().map(|row| table::line(row, widths)).collect::<String>());
    }

    /// In the table, what begins at this node says so.
    fn cells(&self, row: &Value) -> Vec<String> {
        let cell = |field: &str| match (field, &row[field]) {
            ("nextHop" | "peer", Value::Null) => "self".into(),
            _ => cell(row, field),
        };
        self.columns.iter().map(|(_, field)| cell(field)).collect()
    }

    fn finish(mut self) -> Result<()> {
        if !self.waiting.is_empty() || self.widths.is_none() {
            self.flush()?;
        }
        match self.how {
            Output::Json => output::print(if self.widths.is_none() { "[]\n" } else { "\n]\n" }),
            Output::Yaml if self.count == 0 => output::print("[]\n"),
            Output::Yaml => {}
            Output::Ps | Output::Wide => output::print("\n"),
        }
        if self.is_full() && self.limit > 0 && self.limit < usize::MAX {
            eprintln!("only the first {} are shown (--limit)", self.limit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: RoutesArgs,
    }

    #[test]
    fn a_view_and_a_prefix_may_each_be_left_out() {
        use RoutesView::{Best, Received};
        type Wants = (RoutesView, Option<(&'static str, &'static str)>);
        let rows: [(&str, Option<Wants>); 9] = [
            ("", Some((Best, None))),
            ("received", Some((Received, None))),
            ("10.0.0.0/8", Some((Best, Some(("10.0.0.0/8", "longer"))))),
            ("10.0.0.1", Some((Best, Some(("10.0.0.1", "covering"))))),
            ("received 10.0.0.0/8 --exact", Some((Received, Some(("10.0.0.0/8", "exact"))))),
            ("10.0.0.1 --longer", Some((Best, Some(("10.0.0.1", "longer"))))),
            ("recieved 10.0.0.0/8", None),
            ("received --exact", None),
            ("10.0.0.0/8 received", None),
        ];
        for (line, want) in rows {
            let args = Command::parse_from(std::iter::once("routes").chain(line.split_whitespace())).args;
            assert_eq!(Wanted::new(&args).ok().map(|w| (w.view, w.target)), want, "{line}");
        }
    }
}
