//! Tables: Calico's tab layout (Go `text/tabwriter`, minimum width 5, padding 3) and its boxed tables.

/// Shortest column.
const MIN_WIDTH: usize = 5;
/// Spaces after the longest cell of a column.
const PADDING: usize = 3;
/// No column is cut to less.
const SHORTEST: usize = 8;

/// Rows below headings. Every cell is padded, the last one too, and a blank line ends the table, as Calico prints it.
pub fn tabs(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths = longest(headings, rows);
    let headings: Vec<String> = headings.iter().map(ToString::to_string).collect();
    std::iter::once(line(&headings, &widths)).chain(rows.iter().map(|r| line(r, &widths))).collect::<String>() + "\n"
}

/// One line of [`tabs`]; `widths` are those of the texts.
pub fn line(cells: &[String], widths: &[usize]) -> String {
    let padded =
        cells.iter().zip(widths).map(|(cell, &w)| format!("{cell:<width$}", width = (w + PADDING).max(MIN_WIDTH)));
    padded.collect::<String>() + "\n"
}

/// The length of each column's longest text.
fn longest(headings: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let of = |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([headings[i].len()]).max().unwrap_or(0);
    (0..headings.len()).map(of).collect()
}

/// A table in a box: headings centred, text to the left, numbers to the right, one space inside each border (Go `tablewriter`).
pub fn boxed(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths = longest(headings, rows);
    let rule: String = widths.iter().map(|w| format!("+{}", "-".repeat(w + 2))).collect::<String>() + "+\n";
    let heading: String =
        headings.iter().zip(&widths).map(|(cell, &width)| format!("| {} ", centred(cell, width))).collect::<String>()
            + "|\n";
    let body: String = rows
        .iter()
        .map(|row| {
            row.iter().zip(&widths).map(|(cell, &width)| format!("| {} ", aligned(cell, width))).collect::<String>()
                + "|\n"
        })
        .collect();
    format!("{rule}{heading}{rule}{body}{rule}")
}

/// A table in a box as Go's `go-pretty` draws it: headings and texts to the left, the columns named in `right` to the right.
pub fn pretty(headings: &[&str], right: &[&str], rows: &[Vec<String>]) -> String {
    let widths = longest(headings, rows);
    let rule: String = widths.iter().map(|w| format!("+{}", "-".repeat(w + 2))).collect::<String>() + "+\n";
    let line = |cells: &mut dyn Iterator<Item = (&str, usize, bool)>| {
        let cells = cells.map(
            |(cell, width, is_right)| {
                if is_right { format!("| {cell:>width$} ") } else { format!("| {cell:<width$} ") }
            },
        );
        cells.collect::<String>() + "|\n"
    };
    let heading = line(&mut headings.iter().zip(&widths).map(|(h, w)| (*h, *w, false)));
    let body: String = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).zip(headings);
            line(&mut cells.map(|((cell, w), heading)| (cell.as_str(), *w, right.contains(heading))))
        })
        .collect();
    format!("{rule}{heading}{rule}{body}{rule}")
}

/// Cuts the longest columns so that the table is no wider than the terminal: `width`, of which `between` goes to each column
/// beside its text and `outside` to the table. `None`: nothing is cut.
pub fn fit(headings: &[&str], rows: &mut [Vec<String>], width: Option<usize>, between: usize, outside: usize) {
    let widths = fitting(headings, rows, width, between, outside);
    cut(rows, &widths);
}

/// The widths of the texts of a table of [`tabs`] that fits.
pub fn widths(headings: &[&str], rows: &[Vec<String>], width: Option<usize>) -> Vec<usize> {
    fitting(headings, rows, width, TABS.0, TABS.1)
}

fn fitting(
    headings: &[&str],
    rows: &[Vec<String>],
    width: Option<usize>,
    between: usize,
    outside: usize,
) -> Vec<usize> {
    let mut widths = longest(headings, rows);
    let Some(width) = width else { return widths };
    let room = width.saturating_sub(outside + between * widths.len());
    while widths.iter().sum::<usize>() > room {
        // A column is never cut below its heading, or to less than says anything.
        let can = |&i: &usize| widths[i] > headings[i].len().max(SHORTEST);
        let Some(widest) = (0..widths.len()).filter(can).max_by_key(|&i| widths[i]) else { break };
        widths[widest] -= 1;
    }
    widths
}

/// Cuts every text to the width of its column.
pub fn cut(rows: &mut [Vec<String>], widths: &[usize]) {
    for (text, &most) in rows.iter_mut().flat_map(|r| r.iter_mut().zip(widths)) {
        if text.chars().count() > most {
            *text = text.chars().take(most.saturating_sub(1)).chain(['…']).collect();
        }
    }
}

/// What [`tabs`] puts beside and around the cells, for [`fit`].
pub const TABS: (usize, usize) = (PADDING, 0);
/// What [`boxed`] does.
pub const BOXED: (usize, usize) = (3, 1);

/// Centred; an odd space goes to the right.
fn centred(text: &str, width: usize) -> String {
    let gap = width - text.chars().count();
    let left = gap / 2;
    format!("{}{text}{}", " ".repeat(left), " ".repeat(gap - left))
}

fn aligned(text: &str, width: usize) -> String {
    if text.parse::<f64>().is_ok() { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tabs_have_calicos_layout() {
        let rows = [vec!["ippool-test-0".into(), "1.1.1.0/24".into(), "!all()".into()]];
        let want = "NAME            CIDR         SELECTOR   \nippool-test-0   1.1.1.0/24   !all()     \n\n";
        assert_eq!(tabs(&["NAME", "CIDR", "SELECTOR"], &rows), want);
        assert_eq!(tabs(&["A"], &[]), "A    \n\n");
    }

    #[test]
    fn a_table_is_cut_to_the_terminal_and_left_alone_elsewhere() {
        let rows = || vec![vec!["10.0.0.2".to_string(), "cannot connect to 10.0.0.2 port 179: refused".into()]];
        for (width, want) in [
            (None, "cannot connect to 10.0.0.2 port 179: refused"),
            (Some(80), "cannot connect to 10.0.0.2 port 179: refused"),
            (Some(40), "cannot connect to 10.0.0.…"),
            (Some(5), "cannot …"),
        ] {
            let mut cut = rows();
            fit(&["PEER", "ERROR"], &mut cut, width, TABS.0, TABS.1);
            assert_eq!((cut[0][0].as_str(), cut[0][1].as_str()), ("10.0.0.2", want));
        }
        let mut cut = rows();
        fit(&["PEER", "ERROR"], &mut cut, Some(40), BOXED.0, BOXED.1);
        assert!(boxed(&["PEER", "ERROR"], &cut).lines().all(|l| l.chars().count() == 40));
    }

    #[test]
    fn boxes_are_those_of_node_status() {
        let rows = [["10.0.0.2", "node-to-node mesh", "up", "10:12:03", "Established"].map(String::from).to_vec()];
        let want = "\
+--------------+-------------------+-------+----------+-------------+
| PEER ADDRESS |     PEER TYPE     | STATE |  SINCE   |    INFO     |
+--------------+-------------------+-------+----------+-------------+
| 10.0.0.2     | node-to-node mesh | up    | 10:12:03 | Established |
+--------------+-------------------+-------+----------+-------------+
";
        assert_eq!(boxed(&["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"], &rows), want);
    }
}
