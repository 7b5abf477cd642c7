//! LPIPS (Zhang et al. 2018), version 0.1: the distance of two pictures in the features of a
//! network.
//!
//! `d(a, b) = sum over layers l, mean over pixels, sum over channels c, of
//! w_lc (f_lc(a) / (||f_l(a)|| + 1e-10) - f_lc(b) / (||f_l(b)|| + 1e-10))^2`
//!
//! f are the features of [`features`](super::features), the norms are over channels, and the
//! pictures enter as (x - shift) / scale per channel, x in [-1, 1]. The crate has no weights: the
//! user gives them.

use super::comparison::without_border;
use super::features::{ALEX, Layer, Map, Part, VGG16, convolutions, features, least_side};
use crate::error::{Error, Result};
use crate::image::Picture;
use crate::weights::Checkpoint;
use std::path::{Path, PathBuf};

/// Mean and standard deviation of ImageNet's channels, converted to pictures in [-1, 1].
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// Added to a norm before it divides.
const EPSILON: f64 = 1e-10;

/// Indices of the convolutions of networks of torchvision that LPIPS does not take, and their
/// names.
const OTHERS: [(&[usize], &str); 3] = [
    (&[0, 3, 6, 8, 11, 13, 16, 18], "VGG11"),
    (&[0, 2, 5, 7, 10, 12, 15, 17, 20, 22], "VGG13"),
    (&[0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34], "VGG19"),
];

/// How the values of the pictures enter the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LpipsRange {
    /// Rounded to 8 bits, as a file has them.
    EightBit,
    /// Each picture by itself mapped linearly so that its least value is black and its largest
    /// white, as the public deepinv benchmarks do.
    MinMax,
}

/// LPIPS with the weights that the user gave.
pub struct Lpips {
    name: &'static str,
    parts: &'static [Part],
    layers: Vec<Layer>,
    /// Weights of the channels of each compared feature map.
    channels: Vec<Vec<f32>>,
}

impl Lpips {
    /// Reads the features (`features.N.weight` and `.bias`, as torchvision saves AlexNet and VGG16,
    /// or `net.sliceK.N.weight`) and the weights of their channels (`linK.model.1.weight`) from one
    /// file or several, safetensors or of `torch.save`. The network is recognised by its shapes.
    /// Fails on other networks and on files that do not belong together.
    pub fn open(paths: &[PathBuf]) -> Result<Lpips> {
        let files = paths.iter().map(|p| Checkpoint::open(p)).collect::<Result<Vec<_>>>()?;
        let found = files.iter().find_map(|f| Some((f, feature_shapes(f)?)));
        let Some((file, shapes)) = found else {
            let others = files.iter().find_map(|f| Some((f, other_network(f)?)));
            let (path, what) = match (&others, files.first()) {
                (Some((f, what)), _) => (f.path(), *what),
                (None, Some(f)) => (f.path(), "no features.N.weight of a network"),
                (None, None) => return Err(Error::Invalid("LPIPS needs a file of weights".into())),
            };
            return Err(refused(path, what));
        };
        let sizes: Vec<(usize, usize)> = shapes.iter().map(|(index, shape)| (*index, shape[2])).collect();
        let known = [("alex", ALEX), ("vgg", VGG16)].into_iter().find(|(_, parts)| convolutions(parts) == sizes);
        let Some((name, parts)) = known else {
            let indices: Vec<usize> = sizes.iter().map(|s| s.0).collect();
            let other = OTHERS.iter().find(|(other, _)| *other == indices).map(|(_, name)| *name);
            return Err(refused(
                file.path(),
                other.or(other_network(file)).unwrap_or("the features of another network"),
            ));
        };
        let layers = read_layers(file, &shapes)?;
        let channels = read_channels(&files, &compared_channels(parts, &layers))?;
        Ok(Lpips { name, parts, layers, channels })
    }

    /// `alex` or `vgg`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The distance of two pictures without `border` pixels at each side, 0 for equal ones. Fails
    /// if they differ in size or are smaller than the network takes.
    pub fn distance(&self, a: &Picture, b: &Picture, range: LpipsRange, border: usize) -> Result<f64> {
        if (a.width, a.height) != (b.width, b.height) {
            return Err(Error::Invalid(format!(
                "LPIPS compares pictures of one size, not {}x{} with {}x{} pixels",
                a.width, a.height, b.width, b.height
            )));
        }
        let (a, b) = (without_border(a, border)?, without_border(b, border)?);
        let least = least_side(self.parts);
        if a.width.min(a.height) < least {
            return Err(Error::Invalid(format!(
                "LPIPS ({}) needs pictures of {least}x{least} pixels or more, found {}x{}",
                self.name, a.width, a.height
            )));
        }
        let of = |p: &Picture| features(self.parts, &self.layers, normalised(p, range));
        let of_layer = |((a, b), weights): ((&Map, &Map), &Vec<f32>)| layer_distance(a, b, weights);
        Ok(of(&a).iter().zip(&of(&b)).zip(&self.channels).map(of_layer).sum())
    }
}

/// The mean over pixels of the weighted squared distance of unit vectors of features.
fn layer_distance(a: &Map, b: &Map, weights: &[f32]) -> f64 {
    let c = a.channels;
    let length = |v: &[f32]| v.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() + EPSILON;
    let of_pixel = |(a, b): (&[f32], &[f32])| {
        let (by_a, by_b) = (length(a), length(b));
        let values = a.iter().zip(b).zip(weights);
        values.map(|((&a, &b), &w)| f64::from(w) * (f64::from(a) / by_a - f64::from(b) / by_b).powi(2)).sum::<f64>()
    };
    a.values.chunks(c).zip(b.values.chunks(c)).map(of_pixel).sum::<f64>() / (a.width * a.height) as f64
}

/// A picture as the network takes it.
fn normalised(p: &Picture, range: LpipsRange) -> Map {
    let values: Vec<f32> = match range {
        LpipsRange::EightBit => Picture::from_rgb8(&p.to_rgb8()).values,
        LpipsRange::MinMax => {
            let low = p.values.iter().copied().fold(f32::INFINITY, f32::min);
            let high = p.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // A picture of one value becomes black.
            let by = if high > low { 2.0 / (high - low) } else { 0.0 };
            p.values.iter().map(|v| (v - low) * by - 1.0).collect()
        }
    };
    let values = values.iter().enumerate().map(|(i, v)| (v - SHIFT[i % 3]) / SCALE[i % 3]).collect();
    Map { height: p.height, width: p.width, channels: 3, values }
}

/// Name of a tensor of convolution `index` in a file.
fn feature_name(file: &Checkpoint, index: usize, what: &str) -> Option<String> {
    let slices = (1..=5).map(|slice| format!("net.slice{slice}.{index}.{what}"));
    std::iter::once(format!("features.{index}.{what}")).chain(slices).find(|name| file.tensors.contains_key(name))
}

/// Index and extents (outputs, inputs, height, width) of each convolution in a file, in order. None
/// if it has none.
fn feature_shapes(file: &Checkpoint) -> Option<Vec<(usize, Vec<usize>)>> {
    // VGG19 with batch normalisation, the longest of the family, has 53 parts.
    let shape = |index: usize| Some((index, file.tensors[&feature_name(file, index, "weight")?].shape.clone()));
    let shapes: Vec<_> = (0..64).filter_map(shape).collect();
    let is_square = |s: &[usize]| s.len() == 4 && s[2] == s[3];
    (!shapes.is_empty() && shapes.iter().all(|(_, s)| is_square(s))).then_some(shapes)
}

/// A network of torchvision that LPIPS does not take here, by its tensor names.
fn other_network(file: &Checkpoint) -> Option<&'static str> {
    let has = |part: &str| file.tensors.keys().any(|name| name.contains(part));
    let is_normalised = has(".running_mean") && has("features.");
    [
        (has(".squeeze.weight"), "SqueezeNet"),
        (has("layer1.0.conv1."), "a ResNet"),
        (is_normalised, "a VGG with batch normalisation"),
        (has("lin0.model.1.weight"), "the weights of LPIPS's channels alone; give the file of the features too"),
    ]
    .into_iter()
    .find_map(|(is, name)| is.then_some(name))
}

fn refused(path: &Path, what: &str) -> Error {
    let reason = format!("found {what}; LPIPS takes the features of AlexNet or VGG16 of torchvision");
    Error::Weights { path: path.into(), reason }
}

/// The weights of the convolutions. Fails if the channels of one do not follow those of the one
/// before.
fn read_layers(file: &Checkpoint, shapes: &[(usize, Vec<usize>)]) -> Result<Vec<Layer>> {
    let mut inputs = 3;
    let mut layers = Vec::new();
    for (index, shape) in shapes {
        let [outputs, found, kernel, _] = shape[..] else { unreachable!("checked by feature_shapes") };
        let name = |what| feature_name(file, *index, what).unwrap_or(format!("features.{index}.{what}"));
        if found != inputs {
            let reason = format!("{} takes {found} channels, the layer before gives {inputs}", name("weight"));
            return Err(file.error(reason));
        }
        let bias = file.values(&name("bias"))?;
        if bias.len() != outputs {
            let reason = format!("{} has {} values, expected {outputs}", name("bias"), bias.len());
            return Err(file.error(reason));
        }
        let stored = file.values(&name("weight"))?;
        let taps = kernel * kernel;
        let mut weights = vec![0.0; stored.len()];
        for (o, of_output) in stored.chunks(inputs * taps).enumerate() {
            for (i, of_input) in of_output.chunks(taps).enumerate() {
                of_input.iter().enumerate().for_each(|(tap, &v)| weights[(tap * inputs + i) * outputs + o] = v);
            }
        }
        layers.push(Layer { weights, bias });
        inputs = outputs;
    }
    Ok(layers)
}

/// Channels of each compared feature map.
fn compared_channels(parts: &[Part], layers: &[Layer]) -> Vec<usize> {
    let mut done = 0;
    let mut channels = Vec::new();
    for part in parts {
        match part {
            Part::Conv { .. } => done += 1,
            Part::Compared => channels.push(layers[done - 1].bias.len()),
            Part::MaxPool { .. } => {}
        }
    }
    channels
}

/// The weights of the channels of each feature map, from the file that has them.
fn read_channels(files: &[Checkpoint], expected: &[usize]) -> Result<Vec<Vec<f32>>> {
    let name = |k: usize| format!("lin{k}.model.1.weight");
    let Some(file) = files.iter().find(|f| f.tensors.contains_key(&name(0))) else {
        let reason = format!("{} is missing; give the file of LPIPS's own weights beside the features", name(0));
        return Err(files[0].error(reason));
    };
    let read = |(k, &expected): (usize, &usize)| {
        let values = file.values(&name(k))?;
        match values.len() == expected {
            true => Ok(values),
            false => Err(file.error(format!(
                "{} is for {} channels, the features have {expected}; give the weights of the same network",
                name(k),
                values.len()
            ))),
        }
    };
    expected.iter().enumerate().map(read).collect()
}
