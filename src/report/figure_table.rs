//! A table of figures in which the best of a column is marked, as text and on a page.

use super::html::{Html, small_table, table};

/// A column of the table. The first has names.
#[derive(Clone, Debug)]
pub struct Column {
    /// What the figures are.
    pub head: String,
    /// As many as the other columns have.
    pub cells: Vec<String>,
    /// The position of the best, if one is.
    pub best: Option<usize>,
}

/// A table of figures, column by column.
#[derive(Clone, Debug)]
pub struct FigureTable(pub Vec<Column>);

impl FigureTable {
    fn len(&self) -> usize {
        self.0.first().map_or(0, |column| column.cells.len())
    }

    /// Lines of aligned columns. A star stands behind the best.
    pub fn text(&self) -> String {
        let mut lines = vec![String::new(); 1 + self.len()];
        for (k, column) in self.0.iter().enumerate() {
            let mark = |row| if column.best == Some(row) { "*" } else { " " };
            let cells = column.cells.iter().enumerate().map(|(row, text)| format!("{text}{}", mark(row)));
            let texts: Vec<String> = std::iter::once(format!("{} ", column.head)).chain(cells).collect();
            let width = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
            for (line, text) in lines.iter_mut().zip(texts) {
                line.push_str(&if k == 0 { format!("{text:width$}") } else { format!(" {text:>width$}") });
            }
        }
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }

    /// The table of a page. The best are bold. A narrow screen shows up to five columns as they
    /// are.
    pub fn html(&self) -> Html {
        let heads: Vec<&str> = self.0.iter().map(|column| column.head.as_str()).collect();
        let cell = |column: &Column, row: usize| {
            // A mean stays in one line with its error.
            let text = column.cells[row].replace(" ± ", "\u{a0}±\u{a0}");
            if column.best == Some(row) { Html::element("strong", &[], text.as_str()) } else { Html::text(&text) }
        };
        let rows = (0..self.len()).map(|row| self.0.iter().map(|column| cell(column, row)).collect());
        if heads.len() <= 5 { small_table(&heads, rows) } else { table(&heads, rows) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_best_is_marked() {
        let column = |head: &str, cells: [&str; 2], best| {
            let cells = cells.map(String::from).to_vec();
            Column { head: head.into(), cells, best }
        };
        let found =
            FigureTable(vec![column("method", ["a", "longer"], None), column("dB", ["9.5 ± 0.1", "10.25"], Some(1))]);
        let lines = ["method         dB", "a       9.5 ± 0.1", "longer      10.25*"];
        assert_eq!(found.text(), lines.join("\n"));
        assert_eq!(found.html().as_str().matches("<strong>").count(), 1);
        assert!(found.html().as_str().contains("<strong>10.25</strong>"));
    }
}
