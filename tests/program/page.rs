//! A page of `--report` as a test reads it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// A page of `--report`.
pub struct Page(String);

impl Page {
    pub fn read(path: &Path) -> Page {
        Page(std::fs::read_to_string(path).unwrap())
    }

    /// The values of an attribute, as they stand in the text.
    pub fn attributes(&self, name: &str) -> Vec<&str> {
        let start = format!(" {name}=\"");
        self.0.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    pub fn count(&self, words: &str) -> usize {
        self.0.matches(words).count()
    }

    /// Every reference stays inside the page, and every picture decodes. Gives the pictures'
    /// extents.
    pub fn stands_by_itself(&self) -> Vec<(u32, u32)> {
        assert_eq!((self.count("http:"), self.count("https:"), self.count("url(")), (0, 0, 0));
        assert_eq!((self.count("<script"), self.count("</script")), (1, 1), "the page's own script is the only one");
        for place in self.attributes("href") {
            let is_inside = |anchor: &str| self.count(&format!(" id=\"{anchor}\"")) == 1;
            assert!(place == "data:," || place.strip_prefix('#').is_some_and(is_inside), "{place}");
        }
        let decoded = |source: &&str| {
            let png = source.strip_prefix("data:image/png;base64,").unwrap_or_else(|| panic!("{source:.60}"));
            let picture = image::load_from_memory(&STANDARD.decode(png).unwrap()).unwrap();
            (picture.width(), picture.height())
        };
        self.attributes("src").iter().map(decoded).collect()
    }

    /// Number of points of each curve with this name.
    pub fn points(&self, name: &str) -> Vec<usize> {
        let curves = self.0.split("<polyline").skip(1).map(|c| Page(c.split('>').next().unwrap().into()));
        let named = curves.filter(|c| c.attributes("data-name") == [name]);
        named.map(|c| c.attributes("points")[0].split(' ').count()).collect()
    }
}
