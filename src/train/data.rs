//! Training images: crops of photographs, their measurements, and the condition images.

use crate::error::Result;
use crate::image::{Photo, Picture, ReadOptions};
use crate::model::Prior;
use crate::noise::{Draw, NoiseKey, Stream};
use crate::operator::{Operator, baseline_on_canvas, resize_cubic};
use crate::sampler::{Measurement, Noise};
use crate::tensor::Shape;
use image::{RgbImage, imageops};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// How a training image is made from a photograph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// Smallest and largest side of the part that is taken, in sides of the training image; the part
    /// is then resized. Photographs that are smaller are enlarged.
    pub zoom: [f64; 2],
    /// Brightness, contrast and saturation change by a factor of up to 1 plus or minus this, the hue
    /// by up to this share of the circle.
    pub colour: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Augmentation { zoom: [1.0, 2.0], colour: 0.1 }
    }
}

/// The photographs that an estimator is trained on.
#[derive(Debug, Default)]
pub struct Photos {
    /// Their files.
    pub files: Vec<PathBuf>,
    /// Files that can't be read, each with the reason.
    pub unreadable: Vec<String>,
    /// Decoded photographs by their place in `files`, and their bytes together.
    kept: Mutex<(HashMap<usize, Arc<RgbImage>>, usize)>,
}

/// Bytes of photographs that stay decoded. Decoding takes a tenth of a step on the CPU.
const MOST_KEPT: usize = 256 << 20;

impl Photos {
    /// The first `shots` photographs of `files` that can be read, in an order that the seed decides;
    /// fewer if there are no more.
    pub fn choose(files: &[PathBuf], shots: usize, seed: u64) -> Photos {
        let mut random = Stream::new(NoiseKey { seed, image: 0, step: 0, draw: Draw::Augmentation });
        let mut left: Vec<&PathBuf> = files.iter().collect();
        let mut photos = Photos::default();
        while photos.files.len() < shots && !left.is_empty() {
            let file = left.swap_remove(random.below(left.len()));
            match Photo::read_with(file, &ReadOptions::default()) {
                Ok(_) => photos.files.push(file.clone()),
                Err(e) => photos.unreadable.push(e.to_string()),
            }
        }
        photos
    }

    /// Photograph `index` in 8 bits.
    fn decoded(&self, index: usize) -> Result<Arc<RgbImage>> {
        let kept = || self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(photo) = kept().0.get(&index) {
            return Ok(photo.clone());
        }
        let photo = Arc::new(Photo::read_with(&self.files[index], &ReadOptions::default())?.picture.to_rgb8());
        let mut kept = kept();
        let bytes = photo.as_raw().len();
        if kept.1 + bytes <= MOST_KEPT && kept.0.insert(index, photo.clone()).is_none() {
            kept.1 += bytes;
        }
        Ok(photo)
    }
}

/// A training image.
#[derive(Clone, Debug)]
pub struct Example {
    /// The image (h, w, channels) in [-1, 1].
    pub image: Vec<f32>,
    /// What the ControlNet sees of it: the naive restoration of its measurement, of the same shape.
    pub condition: Vec<f32>,
    /// The timestep of the training schedule, from 0 on.
    pub timestep: usize,
}

/// Everything that a training image depends on besides its number.
pub(super) struct Source<'a> {
    pub photos: &'a Photos,
    pub augmentation: Augmentation,
    pub operator: &'a dyn Operator,
    pub noise: Noise,
    pub prior: &'a Prior,
    /// Shape of one image, n = 1.
    pub image: Shape,
    pub seed: u64,
}

impl Source<'_> {
    /// The training images with these numbers of a step.
    pub fn batch(&self, step: u32, numbers: std::ops::Range<u32>) -> Result<Vec<Example>> {
        numbers.into_par_iter().map(|number| self.example(step, number)).collect()
    }

    fn example(&self, step: u32, number: u32) -> Result<Example> {
        let mut random =
            Stream::new(NoiseKey { seed: self.seed, image: number, step: step + 1, draw: Draw::Augmentation });
        let timestep = random.below(self.prior.diffusion_steps);
        let photo = self.photos.decoded(random.below(self.photos.files.len()))?;
        let x = self.augmentation.apply(&photo, (self.image.w, self.image.h), &mut random);
        // Mask, kernel and noise differ from image to image.
        let seed = u64::from(random.word()) << 32 | u64::from(random.word());
        let (measurement, _) = Measurement::simulate(self.operator, self.image, &x.values, self.noise, seed)?;
        let canvas = self.prior.picture_canvas(self.image);
        let condition = baseline_on_canvas(self.operator, &measurement.y, &measurement.state, self.image, canvas);
        Ok(Example { image: x.values, condition, timestep })
    }
}

impl Augmentation {
    /// A random part of a photograph, resized to `width` x `height`, perhaps mirrored, with changed
    /// colours.
    fn apply(&self, photo: &RgbImage, (width, height): (usize, usize), random: &mut Stream) -> Picture {
        let part = self.part(photo, (width, height), random);
        let sized = match (part.width, part.height) == (width, height) {
            true => part,
            false => resize_cubic(&part, height, width),
        };
        let turned = if random.word() % 2 == 0 { sized } else { mirrored(&sized) };
        self.recoloured(turned, random).clamped()
    }

    /// A random part. Its sides are those of the training image times a zoom, as far as they fit; its
    /// aspect ratio differs by a factor of up to 4 / 3.
    fn part(&self, photo: &RgbImage, (width, height): (usize, usize), random: &mut Stream) -> Picture {
        let (across, down) = (photo.width() as usize, photo.height() as usize);
        let between =
            |random: &mut Stream, low: f64, high: f64| (low.ln() + random.uniform() * (high / low).ln()).exp();
        let zoom = between(random, self.zoom[0], self.zoom[1]);
        let skew = if self.zoom[0] == self.zoom[1] { 1.0 } else { between(random, 0.75, 4.0 / 3.0).sqrt() };
        let side = |side: usize, factor: f64, most: usize| ((side as f64 * factor).round() as usize).clamp(1, most);
        // The whole photograph in the wanted aspect ratio bounds both sides.
        let fit = (across as f64 / (width as f64 * skew)).min(down as f64 / (height as f64 / skew));
        let zoom = zoom.min(fit);
        let (w, h) = (side(width, zoom * skew, across), side(height, zoom / skew, down));
        let (left, top) = (random.below(across - w + 1), random.below(down - h + 1));
        Picture::from_rgb8(&imageops::crop_imm(photo, left as u32, top as u32, w as u32, h as u32).to_image())
    }

    /// Changes brightness, contrast, saturation and hue in this order. Values are in [-1, 1].
    fn recoloured(&self, mut picture: Picture, random: &mut Stream) -> Picture {
        let [brightness, contrast, saturation] =
            [(); 3].map(|_| 1.0 + (self.colour * (2.0 * random.uniform() - 1.0)) as f32);
        let hue = (self.colour * (2.0 * random.uniform() - 1.0)) as f32 * std::f32::consts::TAU;
        if self.colour == 0.0 {
            return picture;
        }
        let grey = |p: &[f32]| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
        picture.values.iter_mut().for_each(|v| *v = (0.5 * (*v + 1.0) * brightness).clamp(0.0, 1.0));
        let count = picture.values.len() / 3;
        let mean = picture.values.chunks(3).map(|p| f64::from(grey(p))).sum::<f64>() as f32 / count as f32;
        let (sin, cos) = hue.sin_cos();
        for p in picture.values.chunks_mut(3) {
            p.iter_mut().for_each(|v| *v = (mean + contrast * (*v - mean)).clamp(0.0, 1.0));
            let luma = grey(p);
            // The chroma in YIQ, turned by the hue.
            let i = saturation * (0.596 * p[0] - 0.274 * p[1] - 0.322 * p[2]);
            let q = saturation * (0.211 * p[0] - 0.523 * p[1] + 0.312 * p[2]);
            let (i, q) = (i * cos - q * sin, i * sin + q * cos);
            let back = [luma + 0.956 * i + 0.621 * q, luma - 0.272 * i - 0.647 * q, luma - 1.106 * i + 1.703 * q];
            p.iter_mut().zip(back).for_each(|(v, b)| *v = 2.0 * b - 1.0);
        }
        picture
    }
}

/// The picture with left and right exchanged.
fn mirrored(picture: &Picture) -> Picture {
    let rows = picture.values.chunks(picture.width * 3);
    let values = rows.flat_map(|row| row.chunks(3).rev().flatten().copied()).collect();
    Picture { values, ..*picture }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::operator::parse_task;

    fn random(number: u32) -> Stream {
        Stream::new(NoiseKey { seed: 1, image: number, step: 0, draw: Draw::Augmentation })
    }

    /// A photograph whose red tells the column, whose green the row.
    fn map(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 128]))
    }

    #[test]
    fn parts_have_the_zoom_and_lie_anywhere_in_the_photograph() {
        let photo = map(90, 60);
        let part = |zoom: [f64; 2], number: u32| {
            let augmentation = Augmentation { zoom, colour: 0.0 };
            augmentation.part(&photo, (16, 16), &mut random(number))
        };
        let corner = |p: &Picture| [0, 1].map(|c| ((p.values[c] + 1.0) * 127.5).round() as usize);
        let (mut columns, mut rows, mut sides) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..200 {
            let exact = part([1.0, 1.0], number);
            assert_eq!((exact.width, exact.height), (16, 16));
            let [column, row] = corner(&exact);
            columns.push(column);
            rows.push(row);
            let zoomed = part([1.0, 2.0], number);
            let side = ((zoomed.width * zoomed.height) as f64).sqrt() / 16.0;
            let ratio = zoomed.width as f64 / zoomed.height as f64;
            assert!((0.95..2.05).contains(&side) && (0.7..1.4).contains(&ratio), "{side} {ratio}");
            sides.push(side);
        }
        let range = |v: &[usize]| (*v.iter().min().unwrap(), *v.iter().max().unwrap());
        assert!(range(&columns).0 < 4 && range(&columns).1 > 70 && range(&columns).1 <= 74, "{columns:?}");
        assert!(range(&rows).0 < 4 && range(&rows).1 > 40 && range(&rows).1 <= 44, "{rows:?}");
        assert!(sides.iter().any(|&s| s < 1.1) && sides.iter().any(|&s| s > 1.9));
        // A photograph that is too small is taken whole, or as much of it as has the aspect ratio.
        let small = part([20.0, 20.0], 0);
        assert_eq!((small.width, small.height), (60, 60));
    }

    #[test]
    fn the_condition_is_the_naive_restoration_of_a_measurement_with_its_own_noise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.png");
        map(32, 32).save(&path).unwrap();
        let photos = Photos::choose(&[path], 1, 0);
        let prior = Model::open_or_shipped("photo").unwrap().network.prior();
        let image = Shape::new(1, 16, 16, 3);
        let batch = |task: &str, noise: f64| {
            let operator = parse_task(task).unwrap();
            let augmentation = Augmentation { zoom: [1.0, 1.0], colour: 0.0 };
            let noise = Noise::Gaussian(noise);
            let source = Source {
                photos: &photos,
                augmentation,
                operator: operator.as_ref(),
                noise,
                prior: &prior,
                image,
                seed: 5,
            };
            source.batch(3, 0..2).unwrap()
        };
        let operator = parse_task("sr4").unwrap();
        for x in batch("sr4", 0.0) {
            let (m, _) = Measurement::simulate(operator.as_ref(), image, &x.image, Noise::Gaussian(0.0), 0).unwrap();
            assert_eq!(x.condition, baseline_on_canvas(operator.as_ref(), &m.y, &m.state, image, image));
            assert!(x.condition != x.image);
        }
        let noise: Vec<Vec<f32>> = (batch("denoise", 0.1).iter())
            .map(|x| x.condition.iter().zip(&x.image).map(|(c, x)| c - x).collect())
            .collect();
        // Items of the same crop would have the same noise by chance only; their deviation is 0.2 in [-1, 1].
        let deviation = |v: &[f32]| (v.iter().map(|v| v * v).sum::<f32>() / v.len() as f32).sqrt();
        let difference: Vec<f32> = noise[0].iter().zip(&noise[1]).map(|(a, b)| a - b).collect();
        assert!((deviation(&noise[0]) / 0.2 - 1.0).abs() < 0.1, "{}", deviation(&noise[0]));
        assert!((deviation(&difference) / 0.2 / 2f32.sqrt() - 1.0).abs() < 0.1, "{}", deviation(&difference));
    }

    #[test]
    fn half_of_the_images_are_mirrored_and_colours_change_only_where_asked() {
        let photo = map(16, 16);
        let plain = Picture::from_rgb8(&photo);
        let apply = |colour: f64, number: u32| {
            Augmentation { zoom: [1.0, 1.0], colour }.apply(&photo, (16, 16), &mut random(number))
        };
        let turned = mirrored(&plain);
        assert!(turned != plain && mirrored(&turned) == plain);
        assert_eq!(turned.values[..3], plain.values[15 * 3..16 * 3]);
        let images: Vec<Picture> = (0..200).map(|number| apply(0.0, number)).collect();
        assert!(images.iter().all(|i| *i == plain || *i == turned));
        let count = images.iter().filter(|i| **i == turned).count();
        assert!((70..130).contains(&count), "{count}");
        for number in 0..20 {
            let (before, after) = (&images[number as usize], apply(0.1, number));
            let change = before.values.iter().zip(&after.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!((0.01..0.8).contains(&change) && after.values.iter().all(|v| v.abs() <= 1.0), "{change}");
        }
    }
}
