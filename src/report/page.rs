//! A page that stands by itself: one HTML file with its styles, script and pictures inside, which
//! loads nothing.

use super::html::{Html, escaped};
use crate::error::{Error, Result, shown};
use crate::image::write_whole;
use std::path::Path;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The text of a page: a title, an introduction below it and sections.
pub fn page(title: &str, introduction: Html, sections: impl IntoIterator<Item = Html>) -> String {
    let content = Html::joined(sections.into_iter().map(|section| Html::element("section", &[], section)));
    let title = escaped(title);
    let mut text = String::new();
    // One walk over the template: what is filled in is not searched for further places.
    let mut left = PAGE;
    while let Some((before, rest)) = left.split_once("{{") {
        let (place, after) = rest.split_once("}}").expect("the template closes its places");
        text.push_str(before);
        text.push_str(match place {
            "title" => &title,
            "style" => STYLE,
            "script" => SCRIPT,
            "introduction" => introduction.as_str(),
            "content" => content.as_str(),
            other => unreachable!("the template has no place {other}"),
        });
        left = after;
    }
    text + left
}

/// What a page says of itself.
const GENERATOR: &str = "<meta name=\"generator\" content=\"dmap\">";

/// Checks, before any work is done, that a report can be written to `path`; makes its folder. Fails
/// if `path` is a folder, or a file that is no page of this program, or if its folder can't be made
/// or written to.
pub fn check_place(path: &Path) -> Result<()> {
    let refuse = |reason: String| Err(Error::Invalid(format!("--report {}: {reason}", shown(path))));
    if path.is_dir() || path.file_name().is_none() {
        return refuse("it is a folder; give the name of an HTML file".into());
    }
    if path.exists() {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        if !String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).contains(GENERATOR) {
            return refuse("this file is no page of dmap and is not overwritten; give another name".into());
        }
    }
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(e) = std::fs::create_dir_all(folder) {
        return refuse(format!("its folder {} can't be made ({e}); give another place", shown(folder)));
    }
    let probe = folder.join(format!(".dmap-report-{}.partial", std::process::id()));
    let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
    match written {
        Err(e) => refuse(format!("its folder {} can't be written to ({e}); give another place", shown(folder))),
        Ok(()) => Ok(()),
    }
}

/// Writes a page whole or not at all.
pub fn write_page(path: &Path, text: &str) -> Result<()> {
    write_whole(path, text.as_bytes())
}
