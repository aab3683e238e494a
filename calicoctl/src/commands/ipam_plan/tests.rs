use clap::Parser as _;

use super::*;
use crate::cli::ipam::IpamCommand;
use crate::cli::{Cli, Command};

fn args(line: &str) -> IpamPlanArgs {
    let words = ["calicoctl", "ipam", "plan"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Ipam(IpamCommand::Plan(args)) => args,
        other => panic!("{other:?}"),
    }
}

async fn planned(line: &str) -> Result<Vec<Plan>> {
    plans(&args(line)).await
}

#[tokio::test]
async fn the_table_has_a_row_a_bar_and_a_verdict() {
    let plans =
        planned("--pool 10.0.0.0/22 --nodes 8 --pods-per-node 20 --block-size 26 --block-size /28").await.unwrap();
    let text = plans[0].table();
    assert!(
        text.starts_with(
            "10.0.0.0/22: 8 nodes, 20 pods each (160 in all), 10 % replaced an hour for 24 h\n\nBLOCK SIZE"
        )
    );
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with("/2")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    assert!(rows[0].starts_with("/26          64"), "{text}");
    assert!(text.contains("  /26 █"), "{text}");
    assert!(text.contains("◄ best") && text.contains("Best: /26, with at most"), "{text}");
    // The map shows eight nodes' blocks among free space.
    assert!(text.contains('·') && text.contains('▒'), "{text}");
}

#[tokio::test]
async fn both_families_are_planned_each_on_its_own() {
    let plans = planned("--pool 10.0.0.0/24 --pool fd00::/64 --nodes 2 --pods-per-node 5").await.unwrap();
    assert_eq!(plans.iter().map(|p| p.costs.len()).collect::<Vec<_>>(), [9, 13]);
    let value = plans[1].value();
    assert_eq!((&value["pools"][0], &value["nodes"]), (&json!("fd00::/64"), &json!(2)));
    assert_eq!(value["blockSizes"][0]["blockSize"], 116);
}

#[tokio::test]
async fn the_svg_is_well_formed_and_has_what_the_table_has() {
    let plans =
        planned("--pool 10.0.0.0/24 --nodes 9 --pods-per-node 8 --block-size 26 --block-size 27").await.unwrap();
    let svg = picture::svg(&plans);
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    for line in svg.lines().skip(1) {
        let is_whole = line.ends_with("/>") || line.ends_with("</text>") || line == "</svg>";
        assert!(is_whole && !line.contains("NaN") && !line.contains("=\"-"), "{line}");
    }
    for cost in &plans[0].costs {
        assert!(svg.contains(&format!(">/{}</text>", cost.block_size)));
        assert!(svg.contains(&format!(">{}", cost.routes_peak)));
    }
}

#[tokio::test]
async fn too_few_addresses_are_said() {
    let plans = planned("--pool 10.0.0.0/26 --nodes 3 --pods-per-node 40").await.unwrap();
    assert!(
        plans[0].verdict().starts_with(
            "No block size gives every pod an address (too few addresses, or maxBlocksPerHost 20).\nBest: /"
        )
    );
    assert!(picture::bars(&plans[0], Some(80)).contains("pods without address)"));
}

#[tokio::test]
async fn what_cannot_be_planned_is_refused_with_the_flag_and_the_value() {
    let rows = [
        ("--pool 10.0.0.1/24 --nodes 1", "--pool 10.0.0.1/24: must be strictly masked: 10.0.0.0/24"),
        ("--pool 10.0.0.0/24 --pool 10.0.0.0/25 --nodes 1", "--pool 10.0.0.0/25: overlaps --pool 10.0.0.0/24"),
        ("--pool 10.0.0.0/24 --nodes 1 --block-size 20", "--block-size: no pool can have blocks of that size"),
        ("--pool 10.0.0.0/24 --nodes 1 --max-pods-per-node 5", "--max-pods-per-node 5 is less than --pods-per-node 30"),
        (
            "--pool 10.0.0.0/8 --nodes 20000 --pods-per-node 4000 --max-pods-per-node 4096",
            "pods would be started over 13 block sizes, at most 2e8 can be: give fewer --hours, less --churn, or --block-size",
        ),
    ];
    for (line, expected) in rows {
        let error = planned(line).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
    for (line, expected) in [
        ("--churn=-1", "must be a number from 0 to 10000"),
        ("--churn many", "must be a number from 0 to 10000"),
        ("--hours NaN", "must be a number from 0 to 8784"),
        ("--block-size 33", "must be a prefix length from 20 to 32, or for IPv6 from 116 to 128"),
        ("--nodes 0", "0 is not in 1..=20000"),
        ("--pool 10.0.0.0/33", "invalid"),
    ] {
        let words = ["calicoctl", "ipam", "plan"].into_iter().chain(line.split_whitespace());
        let error = Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}
