//! Reads photos, masks and kernels of all common formats, with the colours and orientation that a
//! viewer shows.

use super::container::{jpeg_ends, late_orientation, webp_metadata_fit};
use super::picture::Picture;
use crate::error::{Error, Result};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use std::path::Path;

/// Maximum side length in pixels; larger pictures must be scaled down first.
const LONGEST_SIDE: u32 = 16_384;

/// Default maximum number of pixels of a picture: a 64 megapixel photo.
pub const MOST_PIXELS: u64 = 64_000_000;
/// Maximum size in bytes of a picture's colour profile, EXIF data and texts.
const BESIDE_PIXELS: u64 = 64 << 20;

/// Limits and options for reading a picture.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ReadOptions {
    /// A picture with more pixels is refused before it is decoded.
    pub most_pixels: u64,
    /// Reads only the centre crop of this (width, height), or less if the picture is smaller.
    pub crop: Option<(usize, usize)>,
    /// Accepts a truncated JPEG; the decoder fills the missing part with grey.
    pub allow_truncated: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { most_pixels: MOST_PIXELS, crop: None, allow_truncated: false }
    }
}

impl ReadOptions {
    /// These options with another maximum number of pixels.
    pub fn most_pixels(self, most_pixels: u64) -> ReadOptions {
        ReadOptions { most_pixels, ..self }
    }

    /// These options with a centre crop of this (width, height), or without a crop.
    pub fn crop(self, size: impl Into<Option<(usize, usize)>>) -> ReadOptions {
        ReadOptions { crop: size.into(), ..self }
    }

    /// These options with truncated JPEGs accepted or refused.
    pub fn allow_truncated(self, allow_truncated: bool) -> ReadOptions {
        ReadOptions { allow_truncated, ..self }
    }
}

/// A picture read from a file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Photo {
    /// The pixels in sRGB. A grey photo has three equal channels.
    pub picture: Picture,
    /// The file has a single grey channel.
    pub grey: bool,
    /// The conversions that were made, in a few words.
    pub note: Option<String>,
}

impl Photo {
    /// Reads PNG, JPEG, BMP, TIFF, WebP or PNM. The EXIF orientation is applied, a colour profile
    /// is converted to sRGB, 16-bit and palette pictures become 8-bit RGB, and transparent pixels
    /// are composited over white.
    pub fn read(path: &Path) -> Result<Photo> {
        Photo::read_with(path, &ReadOptions::default())
    }

    /// Like [`Photo::read`], with the given limits and options.
    pub fn read_with(path: &Path, options: &ReadOptions) -> Result<Photo> {
        let Decoded { mut picture, color, profile, turned } = decode(path, options)?;
        if let Some((w, h)) = options.crop {
            let (w, h) = ((w as u32).min(picture.width()), (h as u32).min(picture.height()));
            picture = picture.crop_imm((picture.width() - w) / 2, (picture.height() - h) / 2, w, h);
        }
        let mut words = Vec::new();
        let grey = matches!(color, ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16);
        if turned {
            words.push("turned upright by its EXIF orientation".into());
        }
        if let Some(profile) = profile {
            words.extend(to_srgb(&mut picture, &profile));
        }
        if matches!(color, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16) {
            words.push("16 bits to 8".into());
        }
        let rgb = if color.has_alpha() {
            words.push("transparency over white".into());
            over_white(&picture)
        } else {
            picture.to_rgb8()
        };
        Ok(Photo { picture: Picture::from_rgb8(&rgb), grey, note: (!words.is_empty()).then(|| words.join(", ")) })
    }
}

/// Reads a mask or blur kernel as grey values in [0, 1]: (width, height, values in row-major
/// order).
pub fn read_grey(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let grey = decode(path, &ReadOptions::default())?.picture.to_luma16();
    let values = grey.as_raw().iter().map(|&v| f32::from(v) / 65_535.0).collect();
    Ok((grey.width() as usize, grey.height() as usize, values))
}

/// A decoded picture in its displayed orientation, and properties of the file.
struct Decoded {
    picture: DynamicImage,
    color: ColorType,
    profile: Option<Vec<u8>>,
    turned: bool,
}

fn decode(path: &Path, options: &ReadOptions) -> Result<Decoded> {
    let refuse = |reason: String| Error::Image { path: path.into(), reason };
    let file = std::fs::metadata(path).map_err(Error::io(path))?;
    if !file.is_file() {
        return Err(refuse("not a file".into()));
    }
    if file.len() == 0 {
        return Err(refuse("the file is empty".into()));
    }
    let unreadable = |e: image::ImageError| refuse(format!("not a readable picture ({e})"));
    // Some decoders read metadata on creation, so the limit allows memory for it from the start.
    let open = |for_pixels: u64| {
        let mut reader = ImageReader::open(path).and_then(|r| r.with_guessed_format()).map_err(Error::io(path))?;
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(BESIDE_PIXELS.saturating_add(for_pixels));
        reader.limits(limits);
        let format = reader.format();
        reader.into_decoder().map(|decoder| (decoder, format)).map_err(unreadable)
    };
    let (mut decoder, format) = open(0)?;
    let (width, height) = decoder.dimensions();
    if width > LONGEST_SIDE || height > LONGEST_SIDE || width == 0 || height == 0 {
        return Err(refuse(format!("{width}x{height} pixels; scale it to at most {LONGEST_SIDE} on a side first")));
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > options.most_pixels {
        return Err(refuse(format!(
            "{width}x{height} are {:.0} megapixels, more than {:.0}; scale it first, or raise --max-pixels",
            pixels as f64 / 1e6,
            options.most_pixels as f64 / 1e6
        )));
    }
    if format == Some(ImageFormat::Jpeg) && !options.allow_truncated && !jpeg_ends(path).map_err(Error::io(path))? {
        return Err(refuse("the end of this JPEG is missing; copy it again, or give --allow-truncated".into()));
    }
    let color = decoder.color_type();
    // A photo with damaged metadata is still read, without them.
    let is_sound = format != Some(ImageFormat::WebP) || webp_metadata_fit(path, BESIDE_PIXELS).unwrap_or(false);
    let (mut profile, mut orientation) = (None, Orientation::NoTransforms);
    if is_sound {
        profile = decoder.icc_profile().unwrap_or_default();
        orientation = decoder.orientation().unwrap_or(orientation);
    }
    // Memory for the pixels, and as much again for the decoder's own buffers.
    let (decoder, _) = open(decoder.total_bytes().saturating_mul(2))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    if format == Some(ImageFormat::Png) && orientation == Orientation::NoTransforms {
        orientation = late_orientation(path).unwrap_or(Orientation::NoTransforms);
    }
    picture.apply_orientation(orientation);
    Ok(Decoded { picture, color, profile, turned: orientation != Orientation::NoTransforms })
}

/// Converts a picture from an ICC profile to sRGB. Returns a description if it changed something.
fn to_srgb(picture: &mut DynamicImage, icc: &[u8]) -> Option<String> {
    let Ok(profile) = ColorProfile::new_from_slice(icc) else {
        return Some("its colour profile is damaged and not used".into());
    };
    let grey = matches!(picture, DynamicImage::ImageLuma8(_) | DynamicImage::ImageLuma16(_))
        || matches!(picture, DynamicImage::ImageLumaA8(_) | DynamicImage::ImageLumaA16(_));
    let layout = match profile.color_space {
        DataColorSpace::Rgb => Layout::Rgb,
        DataColorSpace::Gray if grey => Layout::Gray,
        other => return Some(format!("its colour profile is of {other:?} and not used")),
    };
    let source: Vec<u16> = match layout {
        Layout::Gray => picture.to_luma16().into_raw(),
        _ => picture.to_rgb16().into_raw(),
    };
    let (width, height) = (picture.width(), picture.height());
    let mut converted = vec![0; (width * height) as usize * 3];
    let done = profile
        .create_transform_16bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, TransformOptions::default())
        .and_then(|t| t.transform(&source, &mut converted));
    if done.is_err() {
        return Some("its colour profile can't be converted to sRGB and is not used".into());
    }
    // sRGB profiles differ from each other by rounding: a picture with such a profile is not
    // changed.
    let before = |i: usize| source[if layout == Layout::Gray { i / 3 } else { i }];
    if converted.iter().enumerate().all(|(i, &v)| v.abs_diff(before(i)) <= 65_535 / 255) {
        return None;
    }
    let alpha = picture.color().has_alpha().then(|| picture.to_rgba16());
    let pixel = |x: u32, y: u32| &converted[(y * width + x) as usize * 3..][..3];
    *picture = match alpha {
        Some(alpha) => DynamicImage::ImageRgba16(image::ImageBuffer::from_fn(width, height, |x, y| {
            let p = pixel(x, y);
            image::Rgba([p[0], p[1], p[2], alpha.get_pixel(x, y)[3]])
        })),
        None => DynamicImage::ImageRgb16(image::ImageBuffer::from_fn(width, height, |x, y| {
            let p = pixel(x, y);
            Rgb([p[0], p[1], p[2]])
        })),
    };
    Some("its colour profile converted to sRGB".into())
}

fn over_white(picture: &DynamicImage) -> RgbImage {
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|v| ((v * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}
