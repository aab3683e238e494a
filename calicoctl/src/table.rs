//! Tables: Calico's tab layout (Go `text/tabwriter`, minimum width 5, padding 3) and its boxed tables.

/// Shortest column.
const MIN_WIDTH: usize = 5;
/// Spaces after the longest cell of a column.
const PADDING: usize = 3;

/// Rows below headings. Every cell is padded, the last one too, and a blank line ends the table, as Calico prints it.
pub fn tabs(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..headings.len())
        .map(|i| {
            let longest = rows.iter().map(|r| r[i].chars().count()).chain([headings[i].chars().count()]).max();
            (longest.unwrap_or(0) + PADDING).max(MIN_WIDTH)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded: String = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        padded + "\n"
    };
    let headings: Vec<String> = headings.iter().map(ToString::to_string).collect();
    std::iter::once(line(&headings)).chain(rows.iter().map(|r| line(r))).collect::<String>() + "\n"
}

/// A table in a box: headings centred, text to the left, numbers to the right, one space inside each border (Go `tablewriter`).
pub fn boxed(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..headings.len())
        .map(|i| rows.iter().map(|r| r[i].chars().count()).chain([headings[i].len()]).max().unwrap_or(0))
        .collect();
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
