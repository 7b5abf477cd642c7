//! The page about a run of `dmap compare`: a table and a chart of the methods, then the pictures of
//! every photo, any two of which can be compared.

use super::dots::{DotRow, dots};
use super::failures::Failures;
use super::figure_table::FigureTable;
use super::html::{Html, compared_by_choice, definitions};
use super::page::page;
use crate::error::Result;
use crate::image::Picture;

/// A photo as the page shows it.
pub struct ShownPhoto<'a> {
    /// The photo as the user knows it.
    pub name: &'a str,
    /// Pictures of its size with what they are: the photo, its measurement, then what was restored.
    pub pictures: &'a [(String, Picture)],
    /// The two that are shown first.
    pub first: [usize; 2],
    /// The figures of every method on it.
    pub table: FigureTable,
}

/// Collects what a page shows, photo by photo; pictures are encoded at once, so that it does not
/// keep them.
#[derive(Default)]
pub struct MethodsReport {
    photos: Vec<Html>,
    failures: Failures,
}

impl MethodsReport {
    /// Adds a photo that every method has restored.
    pub fn add_photo(&mut self, photo: &ShownPhoto<'_>) -> Result<()> {
        let pictures: Vec<(&str, &Picture)> = photo.pictures.iter().map(|(name, p)| (name.as_str(), p)).collect();
        let heading = Html::element("h2", &[], photo.name);
        self.photos.push(Html::joined([heading, compared_by_choice(&pictures, photo.first)?, photo.table.html()]));
        Ok(())
    }

    /// Adds a photo that could not be restored, with the message about it.
    pub fn add_failure(&mut self, name: &str, message: &str) {
        self.failures.add(name, message);
    }

    /// The page. `facts` are names and values of what all photos have in common, `table` has the
    /// means of the methods and `psnr` a row for each.
    pub fn page(self, title: &str, facts: &[(&str, String)], table: &FigureTable, psnr: &[DotRow<'_>]) -> String {
        let introduction = definitions(facts.iter().map(|(name, value)| (*name, value.clone())));
        let legend = match self.photos.len() {
            1 => "The mark is the PSNR of the photo.",
            _ => "A dot is a photo, the mark the mean, the bar its standard error.",
        };
        let heading = Html::element("h2", &[], "Methods");
        let mut sections = vec![Html::joined([heading, table.html(), dots("PSNR in dB", legend, psnr)])];
        sections.extend(self.failures.section());
        sections.extend(self.photos);
        page(title, introduction, sections)
    }
}
