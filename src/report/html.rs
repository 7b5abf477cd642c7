//! HTML that can't be broken by what it shows: every text and every attribute is escaped here.

use crate::error::{Result, figure, readable};
use crate::image::Picture;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Largest side in pixels of pictures under a handle. Larger ones are reduced, or a page of a few
/// photos would have hundreds of megabytes.
const COMPARED: usize = 1024;

/// A piece of a page.
#[derive(Clone, Debug, Default)]
pub struct Html(String);

impl Html {
    /// A text.
    pub fn text(text: &str) -> Html {
        Html(escaped(text))
    }

    /// An element with attributes and content.
    pub fn element(tag: &'static str, attributes: &[(&'static str, &str)], content: impl Into<Html>) -> Html {
        let Html(content) = content.into();
        Html(format!("{}{content}</{tag}>\n", opened(tag, attributes)))
    }

    /// An element that has no content, such as `img`.
    pub fn empty(tag: &'static str, attributes: &[(&'static str, &str)]) -> Html {
        Html(opened(tag, attributes))
    }

    /// Pieces, one after the other.
    pub fn joined(pieces: impl IntoIterator<Item = Html>) -> Html {
        Html(pieces.into_iter().map(|piece| piece.0).collect())
    }

    /// True if there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Html {
        Html::text(text)
    }
}

impl From<Vec<Html>> for Html {
    fn from(pieces: Vec<Html>) -> Html {
        Html::joined(pieces)
    }
}

fn opened(tag: &str, attributes: &[(&str, &str)]) -> String {
    let attributes: String = attributes.iter().map(|(name, value)| format!(" {name}=\"{}\"", escaped(value))).collect();
    format!("<{tag}{attributes}>")
}

/// The text with the characters replaced that HTML reads as markup. Control characters, which HTML
/// does not allow, and marks that change the direction of text become replacement characters.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A picture inside the page, as PNG. One with a side of more than `most` pixels is reduced to it;
/// a small one is shown enlarged by a whole factor, with its pixels as squares.
pub fn picture(picture: &Picture, alternative: &str, most: usize) -> Result<Html> {
    /// Width in pixels up to which a picture is enlarged.
    const LEGIBLE: usize = 640;
    let reduced = picture.at_most(most);
    let source = format!("data:image/png;base64,{}", STANDARD.encode(reduced.png()?));
    let zoom = (LEGIBLE / reduced.width.max(reduced.height)).max(1);
    let [width, height] = [reduced.width, reduced.height].map(|side| (side * zoom).to_string());
    let class = if zoom > 1 { "small" } else { "whole" };
    let attributes =
        [("src", &source[..]), ("alt", alternative), ("class", class), ("width", &width), ("height", &height)];
    Ok(Html::empty("img", &attributes))
}

/// A picture with a caption below it.
pub fn captioned(shown: &Picture, caption: &str, most: usize) -> Result<Html> {
    Ok(Html::element("figure", &[], vec![picture(shown, caption, most)?, caption_of(caption)]))
}

fn caption_of(caption: &str) -> Html {
    Html::element("figcaption", &[], caption)
}

/// Pictures of one size to compare: with a script each of `left` can be laid over `right` up to a
/// handle; without one they stand side by side.
pub fn compared(left: &[(&str, &Picture)], right: (&str, &Picture)) -> Result<Html> {
    let mut figures = left.iter().map(|&l| of_side("left", l)).collect::<Result<Vec<_>>>()?;
    figures.push(of_side("right", right)?);
    Ok(Html::element("div", &[("class", "compare")], figures))
}

/// Pictures of one size, of which any two can be compared as by [`compared`]: a menu on each side
/// chooses one. `first` are the positions of the two that are shown first.
pub fn compared_by_choice(pictures: &[(&str, &Picture)], first: [usize; 2]) -> Result<Html> {
    let figures = pictures.iter().map(|&p| of_side("both", p)).collect::<Result<Vec<_>>>()?;
    let [left, right] = first.map(|at| at.to_string());
    Ok(Html::element("div", &[("class", "compare"), ("data-left", &left), ("data-right", &right)], figures))
}

/// A picture to compare; `side` says where it may be shown: `left`, `right` or `both`.
fn of_side(side: &str, (name, shown): (&str, &Picture)) -> Result<Html> {
    Ok(Html::element("figure", &[("data-side", side)], vec![picture(shown, name, COMPARED)?, caption_of(name)]))
}

/// A table. On a narrow screen each row is shown as a block, with the heads beside its cells.
pub fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<Html>>) -> Html {
    table_of("blocks", heads, rows)
}

/// A table of so few and short columns that it fits a narrow screen as it is.
pub fn small_table(heads: &[&str], rows: impl IntoIterator<Item = Vec<Html>>) -> Html {
    table_of("fits", heads, rows)
}

fn table_of(class: &str, heads: &[&str], rows: impl IntoIterator<Item = Vec<Html>>) -> Html {
    let head = heads.iter().map(|&head| Html::element("th", &[], head)).collect::<Vec<_>>();
    let row = |cells: Vec<Html>| {
        let cells = cells.into_iter().zip(heads).map(|(cell, head)| Html::element("td", &[("data-name", head)], cell));
        Html::element("tr", &[], cells.collect::<Vec<_>>())
    };
    let body = rows.into_iter().map(row).collect::<Vec<_>>();
    let head = Html::element("thead", &[], Html::element("tr", &[], head));
    Html::element("table", &[("class", class)], vec![head, Html::element("tbody", &[], body)])
}

/// Names with their values.
pub fn definitions<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> Html {
    let row =
        |(name, value): (&str, String)| [Html::element("dt", &[], name), Html::element("dd", &[], value.as_str())];
    Html::element("dl", &[], rows.into_iter().flat_map(row).collect::<Vec<_>>())
}

/// A bar as long as `share`, 0 to 1, of its cell.
pub fn bar(share: f64) -> Html {
    let width = format!("width:{:.1}%", 100.0 * share.clamp(0.0, 1.0));
    Html::element("div", &[("class", "bar")], Html::element("i", &[("style", &width)], Html::default()))
}

/// A value of a JSON object, such as a `result.json`, as people read it. Numbers whose key ends with
/// `_bytes` are amounts of memory.
pub fn recorded(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(is) => if *is { "yes" } else { "no" }.into(),
        Value::Number(n) if key.ends_with("_bytes") => n.as_f64().map_or(n.to_string(), |bytes| readable(bytes as u64)),
        Value::Number(n) if n.is_f64() => n.as_f64().map_or(n.to_string(), figure),
        Value::Array(items) => {
            // Whole numbers are the sides of a picture, others a list.
            let between = if items.iter().all(Value::is_u64) { " x " } else { ", " };
            items.iter().map(|item| recorded(key, item)).collect::<Vec<_>>().join(between)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        let hostile = "<script>alert(1)</script>\"&'\u{1b}[31m{{script}}";
        let made = Html::element("p", &[("title", hostile)], hostile);
        let safe = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;&#39;\u{fffd}[31m{{script}}";
        assert_eq!(made.as_str(), format!("<p title=\"{safe}\">{safe}</p>\n"));
    }

    #[test]
    fn recorded_values_are_read_by_their_kind() {
        let shown = |key, json: &str| recorded(key, &serde_json::from_str(json).unwrap());
        assert_eq!(
            [shown("seed", "7"), shown("psnr", "23.6149"), shown("size", "[24, 16]")],
            ["7", "23.61", "24 x 16"]
        );
        assert_eq!(
            [shown("l2_bytes", "2048.0"), shown("clip", "true"), shown("label", "null")],
            ["2.0 KiB", "yes", "-"]
        );
        assert_eq!([shown("task", "\"<sr2>\""), shown("zetas", "[0.05, 1.2]")], ["<sr2>", "0.05000, 1.200"]);
    }
}
