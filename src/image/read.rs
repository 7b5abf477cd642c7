//! Reading photos, masks and kernels: any usual kind of file becomes what a person sees when looking at it.

use super::container::{jpeg_ends, late_orientation, webp_metadata_fit};
use super::picture::Picture;
use crate::error::{Error, Result};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use std::path::Path;

/// Longest side that is read; larger pictures have to be scaled first.
const LONGEST_SIDE: u32 = 16_384;

/// Most pixels of a picture that is read, unless the caller asks for more: a 64 megapixel photo.
pub const MOST_PIXELS: u64 = 64_000_000;
/// Bytes that colour profile, EXIF and texts of a picture may take.
const BESIDE_PIXELS: u64 = 64 << 20;

/// How much of a file is read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ReadOptions {
    /// Pictures with more pixels are refused before anything is decoded.
    pub most_pixels: u64,
    /// Only the centre of this width and height, or as much as there is.
    pub crop: Option<(usize, usize)>,
    /// Take a JPEG whose end is missing; the decoder fills it with grey.
    pub allow_truncated: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { most_pixels: MOST_PIXELS, crop: None, allow_truncated: false }
    }
}

impl ReadOptions {
    /// The same with files refused that have more pixels.
    pub fn most_pixels(self, most_pixels: u64) -> ReadOptions {
        ReadOptions { most_pixels, ..self }
    }

    /// The same with only the centre of this width and height, or as much as there is; none for all of it.
    pub fn crop(self, size: impl Into<Option<(usize, usize)>>) -> ReadOptions {
        ReadOptions { crop: size.into(), ..self }
    }

    /// The same with JPEGs whose end is missing taken or refused.
    pub fn allow_truncated(self, allow_truncated: bool) -> ReadOptions {
        ReadOptions { allow_truncated, ..self }
    }
}

/// A picture out of a file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Photo {
    /// The pixels, as sRGB. The three channels of a grey photo are equal.
    pub picture: Picture,
    /// The file has one channel for all colours.
    pub grey: bool,
    /// What was converted, in a few words.
    pub note: Option<String>,
}

impl Photo {
    /// Reads PNG, JPEG, BMP, TIFF, WebP or PNM. The orientation of the EXIF data is applied, a colour profile is converted to
    /// sRGB, sixteen-bit and palette pictures become 8-bit RGB, transparency is laid over white.
    pub fn read(path: &Path) -> Result<Photo> {
        Photo::read_with(path, &ReadOptions::default())
    }

    /// As [`Photo::read`], with limits of the caller's.
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

/// Reads a mask or kernel picture as grey values in [0, 1]: (width, height, values).
pub fn read_grey(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let grey = decode(path, &ReadOptions::default())?.picture.to_luma16();
    let values = grey.as_raw().iter().map(|&v| f32::from(v) / 65_535.0).collect();
    Ok((grey.width() as usize, grey.height() as usize, values))
}

/// A picture the right way up, and what the file says of it.
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
    // Some decoders read what stands before the pixels when they are made: so much memory is for that.
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
    // Damaged metadata do not make a photo unreadable.
    let is_sound = format != Some(ImageFormat::WebP) || webp_metadata_fit(path, BESIDE_PIXELS).unwrap_or(false);
    let (mut profile, mut orientation) = (None, Orientation::NoTransforms);
    if is_sound {
        profile = decoder.icc_profile().unwrap_or_default();
        orientation = decoder.orientation().unwrap_or(orientation);
    }
    // The pixels, and as much again for what a decoder keeps beside them.
    let (decoder, _) = open(decoder.total_bytes().saturating_mul(2))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    if format == Some(ImageFormat::Png) && orientation == Orientation::NoTransforms {
        orientation = late_orientation(path).unwrap_or(Orientation::NoTransforms);
    }
    picture.apply_orientation(orientation);
    Ok(Decoded { picture, color, profile, turned: orientation != Orientation::NoTransforms })
}

/// Converts the colours of a picture from those of an ICC profile to sRGB; says what it did, if anything.
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
    // Profiles of sRGB differ from each other by a rounding: such pictures stay as they are.
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
