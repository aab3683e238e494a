//! A plan as a picture: bars of routes by block size, and a map of the pools' addresses; for a terminal and as SVG.

use std::fmt::Write as _;

use ipam::plan::{Cost, Fill};

use super::Plan;

/// Columns of the longest bar where no terminal says more or less.
const BAR_COLUMNS: usize = 60;
/// Cells of the map on one line.
const MAP_COLUMNS: usize = 64;
/// What stands beside a bar: the block size before it, the number of routes after it.
const BESIDE_COLUMNS: usize = 20;
/// Shades of a cell of the map: in nobody's block; then by how much of it is in use.
const FREE: char = '·';
const SHADES: [char; 4] = ['░', '▒', '▓', '█'];

/// The parts of a bar: routes that are not for borrowed addresses, and those that are, each at its peak.
fn parts(cost: &Cost) -> (usize, usize) {
    let borrowed = cost.borrowed_peak.min(cost.routes_peak);
    (cost.routes_peak - borrowed, borrowed)
}

fn longest(plan: &Plan) -> usize {
    plan.costs.iter().map(|c| c.routes_peak).max().unwrap_or(0).max(1)
}

/// The picture for a terminal that is `width` columns wide.
pub fn bars(plan: &Plan, width: Option<usize>) -> String {
    let columns = width.map_or(BAR_COLUMNS, |w| w.saturating_sub(BESIDE_COLUMNS).clamp(10, 100));
    let longest = longest(plan);
    let mut text = String::from("Routes at the switch, most: █ blocks ░ borrowed addresses\n");
    for (i, cost) in plan.costs.iter().enumerate() {
        let (blocks, borrowed) = parts(cost);
        // What is there at all is seen.
        let length = |routes: usize| (routes * columns).div_ceil(longest);
        let failed = if cost.failed > 0 { format!(" ({} pods without address)", cost.failed) } else { String::new() };
        let best = if i == plan.best { " ◄ best" } else { "" };
        let label = format!("/{}", cost.block_size);
        let bar = format!("{}{}", "█".repeat(length(blocks)), "░".repeat(length(borrowed)));
        let _ = writeln!(text, "{label:>5} {bar} {}{failed}{best}", cost.routes_peak);
    }
    let map = &plan.best().map;
    if !map.is_empty() {
        let size = plan.best().block_size;
        let _ = writeln!(
            text,
            "\nAddresses with /{size}, first to last: {FREE} in no block, in a block ░ unused to █ used"
        );
        let cells: Vec<char> = map.iter().map(shade).collect();
        for line in cells.chunks(MAP_COLUMNS) {
            let _ = writeln!(text, "      {}", line.iter().collect::<String>());
        }
    }
    text
}

fn shade(fill: &Fill) -> char {
    if fill.claimed <= 0.0 {
        return FREE;
    }
    let used = (fill.used * SHADES.len() as f64) as usize;
    SHADES[used.min(SHADES.len() - 1)]
}

/// Units of the SVG, in pixels.
const WIDTH: usize = 860;
const LEFT: usize = 70;
const BAR_WIDTH: usize = 600;
const ROW: usize = 22;
const TEXT: &str = "font-family=\"sans-serif\" font-size=\"13\"";

/// All plans as one SVG document, below each other.
pub fn svg(plans: &[Plan]) -> String {
    let mut body = String::new();
    let mut y = 10;
    for plan in plans {
        svg_plan(&mut body, &mut y, plan);
        y += ROW;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn svg_plan(svg: &mut String, y: &mut usize, plan: &Plan) {
    let mut line = |svg: &mut String, text: &str, weight: &str| {
        *y += ROW;
        let _ = writeln!(svg, "<text x=\"10\" y=\"{y}\" {TEXT} font-weight=\"{weight}\">{}</text>", escaped(text));
    };
    line(svg, &plan.title(), "bold");
    for sentence in plan.verdict().lines() {
        line(svg, sentence, "normal");
    }
    line(svg, "Routes at the switch, most: blocks (dark), borrowed addresses (light)", "normal");
    let longest = longest(plan);
    for (i, cost) in plan.costs.iter().enumerate() {
        let top = *y + 8;
        *y += ROW;
        let (blocks, borrowed) = parts(cost);
        let dark = blocks * BAR_WIDTH / longest;
        let light = (borrowed * BAR_WIDTH).div_ceil(longest);
        let colour = if i == plan.best { "#1b7f4b" } else { "#3b6ea5" };
        let failed = if cost.failed > 0 { format!(", {} pods without address", cost.failed) } else { String::new() };
        let best = if i == plan.best { " (best)" } else { "" };
        let _ = writeln!(svg, "<text x=\"10\" y=\"{y}\" {TEXT}>/{}</text>", cost.block_size);
        let _ = writeln!(svg, "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{dark}\" height=\"16\" fill=\"{colour}\"/>");
        let start = LEFT + dark;
        let _ = writeln!(svg, "<rect x=\"{start}\" y=\"{top}\" width=\"{light}\" height=\"16\" fill=\"#f0a860\"/>");
        let start = LEFT + dark + light + 6;
        let _ = writeln!(svg, "<text x=\"{start}\" y=\"{y}\" {TEXT}>{}{failed}{best}</text>", cost.routes_peak);
    }
    let map = &plan.best().map;
    if map.is_empty() {
        return;
    }
    *y += ROW;
    let size = plan.best().block_size;
    let _ = writeln!(
        svg,
        "<text x=\"10\" y=\"{y}\" {TEXT}>Addresses with /{size}, first to last: grey in no block, darker where more are in use</text>"
    );
    let top = *y + 8;
    *y += 2 * ROW;
    let cell = (BAR_WIDTH + LEFT) as f64 / map.len() as f64;
    for (i, fill) in map.iter().enumerate() {
        let colour = if fill.claimed <= 0.0 {
            "#e4e4e4".to_string()
        } else {
            // From a light to a dark green.
            let shade = |light: f64, dark: f64| (light + (dark - light) * fill.used.clamp(0.0, 1.0)) as u8;
            format!("#{:02x}{:02x}{:02x}", shade(205.0, 16.0), shade(235.0, 84.0), shade(215.0, 50.0))
        };
        let x = 10.0 + i as f64 * cell;
        let _ = writeln!(svg, "<rect x=\"{x:.1}\" y=\"{top}\" width=\"{cell:.1}\" height=\"24\" fill=\"{colour}\"/>");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
