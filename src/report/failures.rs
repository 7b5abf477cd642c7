//! The inputs that a run could not restore, on its page.

use super::html::{Html, table};

/// The inputs that a run could not restore.
#[derive(Default)]
pub struct Failures(Vec<Vec<Html>>);

impl Failures {
    /// Adds an input with the message about it.
    pub fn add(&mut self, name: &str, message: &str) {
        // Many messages begin with the name, which has a column of its own.
        let reason = message.strip_prefix(&format!("{name}: ")).unwrap_or(message);
        self.0.push(vec![Html::text(name), Html::text(reason)]);
    }

    /// A section about them; none if there are none.
    pub fn section(self) -> Option<Html> {
        let heading = Html::element("h2", &[], "Not restored");
        (!self.0.is_empty()).then(|| Html::joined([heading, table(&["image", "reason"], self.0)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_name_and_reason() {
        let mut failures = Failures::default();
        assert!(Failures::default().section().is_none());
        failures.add("a.png", "a.png: too small");
        failures.add("b.png", "no memory");
        let page = failures.section().unwrap();
        for (name, reason) in [("a.png", "too small"), ("b.png", "no memory")] {
            let cells = format!("<td data-name=\"image\">{name}</td>\n<td data-name=\"reason\">{reason}</td>");
            assert!(page.as_str().contains(&cells), "{}", page.as_str());
        }
    }
}
