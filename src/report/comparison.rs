//! The side-by-side picture: labelled panels over a plot of the residual.

use crate::image::Picture;
use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage};

const GAP: u32 = 8;
const LABEL: u32 = 24;
const PLOT: u32 = 140;
const INK: Rgb<u8> = Rgb([32, 32, 32]);
const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const LINE: Rgb<u8> = Rgb([190, 60, 40]);
const FAINT: Rgb<u8> = Rgb([150, 150, 150]);

/// A picture of labelled panels of one size, with a logarithmic plot of the residual over the steps
/// below them. `noise`, the norm of the noise, is drawn as a dashed line if it is known.
pub fn comparison(panels: &[(String, Picture)], residuals: &[f32], noise: Option<f64>) -> RgbImage {
    let (w, h) = panels.iter().fold((1, 1), |m, p| (m.0.max(p.1.width as u32), m.1.max(p.1.height as u32)));
    // Small pictures are enlarged, so that labels fit above them. Tall ones are not, because the
    // page would become huge.
    let zoom = 192u32.div_ceil(w).min(2048 / h).max(1);
    let (w, h) = (w * zoom, h * zoom);
    let count = panels.len() as u32;
    let width = count * w + (count + 1) * GAP;
    let plot = if residuals.len() > 1 { PLOT + GAP } else { 0 };
    let mut page = RgbImage::from_pixel(width, LABEL + h + GAP + plot, PAPER);
    for (k, (label, picture)) in panels.iter().enumerate() {
        let left = GAP + k as u32 * (w + GAP);
        text(&mut page, left, 8, label, INK);
        let picture = picture.resize_nearest(picture.height * zoom as usize, picture.width * zoom as usize);
        image::imageops::replace(&mut page, &picture.to_rgb8(), left.into(), LABEL.into());
    }
    if plot > 0 {
        draw_plot(&mut page, (GAP, LABEL + h + GAP), (width - 2 * GAP, PLOT), residuals, noise);
    }
    page
}

fn draw_plot(page: &mut RgbImage, (left, top): (u32, u32), (w, h): (u32, u32), values: &[f32], noise: Option<f64>) {
    let logs: Vec<f64> = values.iter().map(|&v| f64::from(v).max(1e-6).log10()).collect();
    let level = noise.filter(|&n| n > 0.0).map(f64::log10);
    let all = || logs.iter().copied().chain(level);
    let (low, high) = (all().fold(f64::MAX, f64::min) - 0.05, all().fold(f64::MIN, f64::max) + 0.05);
    let y_of = |v: f64| top + 12 + ((high - v) / (high - low) * f64::from(h - 26)) as u32;
    let x_of = |i: usize| left + (i as f64 / (logs.len() - 1) as f64 * f64::from(w - 1)) as u32;
    text(page, left, top, &format!("residual over {} steps", values.len()), INK);
    for x in left..left + w {
        page.put_pixel(x, top + h - 12, FAINT);
    }
    if let Some(level) = level {
        let y = y_of(level);
        (left..left + w).filter(|x| x / 6 % 2 == 0).for_each(|x| page.put_pixel(x, y, FAINT));
        text(page, left + w - 8 * 5, y.saturating_sub(10).max(top), "noise", FAINT);
    }
    for i in 1..logs.len() {
        segment(page, (x_of(i - 1), y_of(logs[i - 1])), (x_of(i), y_of(logs[i])));
    }
    text(page, left, top + h - 9, &format!("first {:.3}", values[0]), INK);
    let last = format!("last {:.3}", values[values.len() - 1]);
    text(page, left + w - 8 * last.len() as u32, top + h - 9, &last, INK);
}

fn segment(page: &mut RgbImage, a: (u32, u32), b: (u32, u32)) {
    let steps = a.0.abs_diff(b.0).max(a.1.abs_diff(b.1)).max(1);
    for s in 0..=steps {
        let at =
            |p: u32, q: u32| (f64::from(p) + (f64::from(q) - f64::from(p)) * f64::from(s) / f64::from(steps)) as u32;
        let (x, y) = (at(a.0, b.0), at(a.1, b.1));
        for dy in 0..2 {
            if x < page.width() && y + dy < page.height() {
                page.put_pixel(x, y + dy, LINE);
            }
        }
    }
}

fn text(page: &mut RgbImage, x: u32, y: u32, text: &str, ink: Rgb<u8>) {
    for (k, character) in text.chars().enumerate() {
        let glyph = font8x8::BASIC_FONTS.get(character).unwrap_or([0; 8]);
        for (row, bits) in glyph.iter().enumerate() {
            for column in (0..8).filter(|c| bits >> c & 1 == 1) {
                let (px, py) = (x + 8 * k as u32 + column, y + row as u32);
                if px < page.width() && py < page.height() {
                    page.put_pixel(px, py, ink);
                }
            }
        }
    }
}
