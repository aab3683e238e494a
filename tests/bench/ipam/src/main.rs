//! `ipam-bench`: allocation beside bare transactions of the same store in the same run, 100 at once on one node, many nodes at once, and
//! with 100,000 addresses present, and what the controller does with 10,000 services; as a table and as JSON.

mod alone;
mod controller;
mod many;
mod stores;
mod times;
mod together;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};
use stores::Kind;

/// Measures address management on etcd and SQLite.
#[derive(Parser)]
struct Arguments {
    /// What to measure: a (one at a time), b (100 at once), c (64 nodes), d (1,000 nodes), e (100,000 addresses),
    /// f (the controller with 10,000 services and 100,000 pods)
    #[arg(long, value_delimiter = ',', default_value = "a,b,c,d,e,f")]
    scenarios: Vec<char>,
    /// Where the stores keep their data: a disk whose fdatasync is to be measured
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data: PathBuf,
    /// The larger number of addresses of e
    #[arg(long, default_value_t = 100_000)]
    addresses: usize,
    /// Print the octets that collectors of so many addresses each take for one address, and end
    #[arg(long, hide = true)]
    hold: Option<usize>,
    /// The larger number of services of f
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Write the results to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// The version under test, for the record
    #[arg(long, default_value = "unknown")]
    commit: String,
}

/// One line of the results.
pub struct Row {
    pub scenario: char,
    pub store: &'static str,
    pub what: &'static str,
    pub unit: &'static str,
    pub value: f64,
    /// What it is measured against in the same run.
    pub against: Option<(&'static str, f64)>,
    /// At most this: of the ratio where there is one, else of the value.
    pub limit: Option<f64>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.against.map(|(_, other)| self.value / other)
    }

    fn is_met(&self) -> Option<bool> {
        self.limit.map(|limit| self.ratio().unwrap_or(self.value) <= limit)
    }

    fn json(&self) -> Value {
        json!({
            "scenario": self.scenario.to_string(), "store": self.store, "what": self.what, "unit": self.unit, "value": self.value,
            "against": self.against.map(|(name, value)| json!({"what": name, "value": value})),
            "ratio": self.ratio(), "limit": self.limit, "met": self.is_met(),
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(each) = arguments.hold {
        return match many::hold(each, arguments.addresses) {
            Ok(octets) => {
                println!("{octets}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(|e| e.to_string()).and_then(|r| r.block_on(measure(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn measure(arguments: &Arguments) -> Result<(), String> {
    let mut rows = vec![];
    for scenario in &arguments.scenarios {
        let before = rows.len();
        for kind in [Kind::Etcd, Kind::Sqlite] {
            match scenario {
                'a' => rows.extend(alone::measure(kind, &arguments.data).await?),
                'b' => rows.extend(together::one_node(kind, &arguments.data).await?),
                // A fleet's nodes share no file.
                'c' if kind == Kind::Etcd => rows.extend(together::some_nodes(&arguments.data).await?),
                'd' if kind == Kind::Etcd => rows.extend(together::many_nodes(&arguments.data).await?),
                'e' => rows.extend(many::measure(kind, &arguments.data, arguments.addresses).await?),
                'f' if kind == Kind::Etcd => {
                    rows.extend(controller::measure(&arguments.data, arguments.services).await?)
                }
                'c' | 'd' | 'f' => {}
                other => return Err(format!("--scenarios {other}: it is one of a, b, c, d, e, f")),
            }
        }
        if *scenario == 'e' {
            rows.extend(many::memory(arguments.addresses)?);
            rows.extend(many::pure(arguments.addresses)?);
        }
        rows[before..].iter().for_each(|row| println!("{}", row.json()));
    }
    if let Some(path) = &arguments.json {
        let text = format!("{:#}\n", record(&arguments.commit, &rows));
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let missed = rows.iter().filter(|row| row.is_met() == Some(false)).count();
    if missed == 0 { Ok(()) } else { Err(format!("{missed} goals were not met")) }
}

fn record(commit: &str, rows: &[Row]) -> Value {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = file("/proc/cpuinfo");
    let cpu = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    json!({
        "date": jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        "commit": commit,
        "machine": {
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "cpu": cpu.map_or("unknown", |c| c.1.trim()),
            "kernel": file("/proc/sys/kernel/osrelease").trim(),
        },
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    })
}
