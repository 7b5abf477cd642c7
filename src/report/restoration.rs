//! The page about a run of `dmap restore`: one section per image, then the memory of a step.

use super::chart::Chart;
use super::failures::Failures;
use super::html::{Html, captioned, compared, definitions, recorded, table};
use super::page::page;
use super::step_log::StepLog;
use crate::error::{Result, figure, readable};
use crate::image::Picture;
use crate::sampler::Restorer;
use crate::tensor::Shape;
use serde_json::Value;
use std::ops::Range;

/// Largest side in pixels of pictures in rows; larger ones are reduced.
const IN_ROW: usize = 320;

/// A restored image as the page shows it.
pub struct ShownImage<'a> {
    /// The input as the user knows it.
    pub name: &'a str,
    /// The object of its `result.json`.
    pub result: &'a Value,
    /// The measurement, in the size of the image.
    pub measurement: &'a Picture,
    /// The true image, if it is known.
    pub truth: Option<&'a Picture>,
    /// The restored image, or the mean of several samples.
    pub restored: &'a Picture,
    /// The samples, if there are several.
    pub samples: &'a [Picture],
    /// Their standard deviation as a picture.
    pub deviation: Option<&'a Picture>,
    /// The steps of the first sample. None for an image that was restored by an earlier run.
    pub steps: Option<&'a StepLog>,
}

/// Collects what a page shows, image by image; pictures are encoded at once, so that it does not
/// keep them.
#[derive(Default)]
pub struct RestorationReport {
    images: Vec<Html>,
    rows: Vec<Vec<Html>>,
    failures: Failures,
    memory: Vec<Html>,
    /// Shapes of the batches in `memory`.
    planned: Vec<Shape>,
}

impl RestorationReport {
    /// A report of nothing.
    pub fn new() -> RestorationReport {
        RestorationReport::default()
    }

    /// Adds a restored image.
    pub fn add_image(&mut self, image: &ShownImage<'_>) -> Result<()> {
        let place = format!("image-{}", self.images.len() + 1);
        let mut content = vec![Html::element("h2", &[("id", place.as_str())], image.name)];
        let number = |key: &str| image.result[key].as_f64();
        let written = |key: &str| number(key).map_or(String::from("-"), figure);
        if let Some(warning) = image.result["warning"].as_str() {
            content.push(Html::element("p", &[("class", "warning")], warning));
        }
        let measured = ("measurement", image.measurement);
        let truth = image.truth.map(|t| ("truth", t));
        let name = if image.samples.is_empty() { "restored" } else { "mean of the samples" };
        let left: Vec<_> = [Some(measured), truth].into_iter().flatten().collect();
        content.push(compared(&left, (name, image.restored))?);
        content.push(figures(image.result));
        if !image.samples.is_empty() {
            content.push(Html::element("h3", &[], "Samples"));
            content.push(samples(image)?);
        }
        content.push(curves(image));
        match image.steps {
            None => content
                .push(faint("Restored by an earlier run: its estimates and the lengths of its steps are not known.")),
            Some(steps) if !steps.estimates.is_empty() => {
                content.push(Html::element("h3", &[], "Estimates of the clean image on the way"));
                let shown = |(step, picture): &(usize, Picture)| {
                    let sigma = steps.sigmas.get(step - 1).map_or(String::new(), |s| format!(", sigma {}", figure(*s)));
                    captioned(picture, &format!("step {step}{sigma}"), IN_ROW)
                };
                content.push(row(steps.estimates.iter().map(shown).collect::<Result<_>>()?));
            }
            Some(_) => {}
        }
        content.push(Html::element(
            "details",
            &[],
            vec![Html::element("summary", &[], "Settings and figures"), definitions(settings(image.result))],
        ));
        self.images.push(Html::joined(content));
        let link = Html::element("a", &[("href", &format!("#{place}"))], image.name);
        let cells = ["psnr", "psnr_baseline", "ssim", "lpips", "residual_over_noise", "seconds"];
        self.rows.push(std::iter::once(link).chain(cells.map(|key| Html::text(&written(key)))).collect());
        Ok(())
    }

    /// Adds an image that could not be restored, with the message about it.
    pub fn add_failure(&mut self, name: &str, message: &str) {
        self.failures.add(name, message);
    }

    /// Adds the memory of a step of a restorer, and the seconds that it took to plan and prepare
    /// it. A second one for batches of the same shape is left out.
    pub fn add_restorer(&mut self, restorer: &Restorer, seconds: f64) {
        let canvas = restorer.picture_canvas();
        if self.planned.contains(&canvas) {
            return;
        }
        self.planned.push(canvas);
        let (arena, weights) = restorer.memory();
        let mut content = vec![
            Html::element("h3", &[], format!("{}x{} pixels, batch of {}", canvas.w, canvas.h, canvas.n).as_str()),
            definitions([
                ("arena and inputs", readable(arena)),
                ("weights", readable(weights)),
                ("planned and prepared in", format!("{} s", figure(seconds))),
            ]),
        ];
        let names = restorer.phase_names();
        for ((executor, name), passes) in restorer.executors().into_iter().zip(names).zip(restorer.passes()) {
            let (graph, plan) = (executor.graph(), executor.plan());
            let title = format!("Phase {name}: bytes in use at each node, network passes: {passes}");
            let node = |s: &crate::graph::Step| match s.recomputed {
                true => format!("{} (recomputed)", graph.node(s.node).name),
                false => graph.node(s.node).name.clone(),
            };
            let chart = Chart {
                title: &title,
                step: "node",
                curves: vec![("arena", plan.memory.iter().map(|m| m.live as f64).collect())],
                level: Some(("size of the arena", plan.arena_bytes as f64)),
                shaded: Some(("reverse pass", ranges(plan.memory.iter().map(|m| m.reverse)))),
                labels: plan.steps.iter().map(node).collect(),
                logarithmic: false,
                written: |bytes| readable(bytes as u64),
            };
            content.push(chart.html());
            let largest = plan.live_at_peak(graph).into_iter().take(5);
            let largest = largest.map(|(name, bytes)| format!("{name} ({})", readable(bytes))).collect::<Vec<_>>();
            if !largest.is_empty() {
                content.push(faint(&format!("Largest at the peak: {}.", largest.join(", "))));
            }
        }
        self.memory.push(Html::joined(content));
    }

    /// The page. `facts` are names and values of what all images have in common.
    pub fn page(self, title: &str, facts: &[(&str, String)]) -> String {
        let mut introduction = vec![definitions(facts.iter().map(|(name, value)| (*name, value.clone())))];
        if self.rows.is_empty() {
            introduction.push(faint("No image was restored."));
        }
        let mut sections = Vec::new();
        if self.rows.len() > 1 {
            let heads = ["image", "PSNR, dB", "baseline, dB", "SSIM", "LPIPS", "residual / noise", "seconds"];
            sections.push(Html::joined([Html::element("h2", &[], "Images"), table(&heads, self.rows)]));
        }
        sections.extend(self.failures.section());
        sections.extend(self.images);
        if !self.memory.is_empty() {
            let heading = Html::element("h2", &[], "Memory over a step");
            sections.push(Html::joined(std::iter::once(heading).chain(self.memory)));
        }
        page(title, Html::joined(introduction), sections)
    }
}

fn faint(text: &str) -> Html {
    Html::element("p", &[("class", "faint")], text)
}

fn row(pictures: Vec<Html>) -> Html {
    Html::element("div", &[("class", "row")], pictures)
}

/// The figures that people look for first.
fn figures(result: &Value) -> Html {
    let number = |key: &str, unit: &str| result[key].as_f64().map(|v| format!("{}{unit}", figure(v)));
    let baseline = result["baseline"].as_str().unwrap_or("baseline");
    let psnr = number("psnr", " dB").map(|psnr| match number("psnr_baseline", " dB") {
        Some(naive) => format!("{psnr} ({baseline}: {naive})"),
        None => psnr,
    });
    let residual = number("residual", "").map(|residual| match number("residual_over_noise", "") {
        Some(over) => format!("{residual}, {over} times the noise"),
        None => residual,
    });
    let seconds = number("seconds", " s").map(|all| match number("seconds_per_step", " s") {
        Some(one) => format!("{all}, {one} a step"),
        None => all,
    });
    let lpips = number("lpips", "").map(|v| match result["lpips_network"].as_str() {
        Some(network) => format!("{v} ({network})"),
        None => v,
    });
    let rows =
        [("PSNR", psnr), ("SSIM", number("ssim", "")), ("LPIPS", lpips), ("residual", residual), ("time", seconds)];
    definitions(rows.into_iter().filter_map(|(name, value)| Some((name, value?))))
}

fn samples(image: &ShownImage<'_>) -> Result<Html> {
    let psnr =
        |k: usize| image.result["psnr_samples"][k].as_f64().map_or(String::new(), |v| format!(", {} dB", figure(v)));
    let mut pictures = vec![captioned(image.restored, "mean", IN_ROW)?];
    if let Some(deviation) = image.deviation {
        pictures.push(captioned(deviation, "standard deviation (white: a quarter of the range)", IN_ROW)?);
    }
    for (k, sample) in image.samples.iter().enumerate() {
        pictures.push(captioned(sample, &format!("sample {}{}", k + 1, psnr(k)), IN_ROW)?);
    }
    Ok(row(pictures))
}

/// Residual, lengths of steps and times over the steps.
fn curves(image: &ShownImage<'_>) -> Html {
    // JSON has no NaN: where no residual was reported there is null.
    let values = image.result["residuals"].as_array();
    let residuals: Vec<f64> = values.into_iter().flatten().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect();
    let log = image.steps.cloned().unwrap_or_default();
    let labels = |what: &[f64]| -> Vec<String> {
        let of_step = |(k, sigma): (usize, &f64)| format!("step {}, sigma {}", k + 1, figure(*sigma));
        if log.sigmas.len() == what.len() { log.sigmas.iter().enumerate().map(of_step).collect() } else { Vec::new() }
    };
    let chart = |title, curves: Vec<(&str, Vec<f64>)>, level, logarithmic| {
        let labels = labels(&curves[0].1);
        Chart { title, step: "step", curves, level, shaded: None, labels, logarithmic, written: figure }.html()
    };
    let noise = image.result["added_noise_norm"].as_f64().map(|n| ("norm of the noise", n));
    let mut lengths = vec![("change of x", log.changes.clone())];
    if !log.descents.is_empty() {
        lengths.push(("step against the gradient", log.descents.clone()));
    }
    let charts = [
        chart("Residual", vec![("|| A(x0) - y ||", residuals)], noise, true),
        chart("Step size, root mean square over the values", lengths, None, true),
        chart("Seconds", vec![("seconds of a step", log.seconds.clone())], None, false),
    ];
    Html::element("div", &[("class", "charts")], charts.into_iter().filter(|c| !c.is_empty()).collect::<Vec<_>>())
}

/// Names and values of a `result.json`, without its lists over steps.
fn settings(result: &Value) -> Vec<(&str, String)> {
    let is_list = |key: &str| matches!(key, "residuals" | "psnr_samples");
    let all = result.as_object().into_iter().flatten();
    all.filter(|(key, _)| !is_list(key)).map(|(key, value)| (key.as_str(), recorded(key, value))).collect()
}

/// The ranges of positions where it is true.
fn ranges(is: impl Iterator<Item = bool>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (k, _) in is.enumerate().filter(|(_, is)| *is) {
        match ranges.last_mut() {
            Some(last) if last.end == k => last.end = k + 1,
            _ => ranges.push(k..k + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_what_is_true() {
        assert_eq!(ranges([false, true, true, false, true].into_iter()), [1..3, 4..5]);
    }
}
