//! Pictures: reading photos of any usual kind, and writing PNG files whole or not at all.

use crate::error::{Error, Result};
use image::{ColorType, DynamicImage, ImageDecoder, ImageReader, RgbImage};
use std::io::{Cursor, Write};
use std::path::Path;

/// Longest side that is read; larger pictures have to be scaled first.
const LONGEST_SIDE: u32 = 16_384;

/// An RGB picture in [-1, 1], (height, width, 3), row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Values, channels fastest.
    pub values: Vec<f32>,
}

impl Picture {
    /// Reads PNG, JPEG, BMP, TIFF, WebP or PNM. Sixteen-bit, grey and palette pictures are converted, transparency is laid
    /// over white; the second value says so in a few words.
    pub fn read(path: &Path) -> Result<(Picture, Option<String>)> {
        let (decoded, color) = decode(path)?;
        let mut words = Vec::new();
        if matches!(color, ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16) {
            words.push("grey to RGB");
        }
        if matches!(color, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16) {
            words.push("16 bits to 8");
        }
        let rgb = if color.has_alpha() {
            words.push("transparency over white");
            over_white(&decoded)
        } else {
            decoded.to_rgb8()
        };
        let note = (!words.is_empty()).then(|| words.join(", "));
        Ok((Picture::from_rgb8(&rgb), note))
    }

    /// From 8-bit values.
    pub fn from_rgb8(rgb: &RgbImage) -> Picture {
        let values = rgb.as_raw().iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
        Picture { width: rgb.width() as usize, height: rgb.height() as usize, values }
    }

    /// To 8-bit values, rounded, out of range values limited.
    pub fn to_rgb8(&self) -> RgbImage {
        let bytes = self.values.iter().map(|v| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8).collect();
        RgbImage::from_raw(self.width as u32, self.height as u32, bytes).expect("three values per pixel")
    }

    /// Writes a PNG; the file appears whole or not at all.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        write_png(path, &self.to_rgb8())
    }

    /// The centre of `width` x `height` pixels, or as much as there is.
    pub fn centre_crop(&self, width: usize, height: usize) -> Picture {
        let (w, h) = (width.min(self.width), height.min(self.height));
        self.part((self.width - w) / 2, (self.height - h) / 2, w, h)
    }

    /// The part of `w` x `h` pixels whose top left pixel is (`left`, `top`).
    pub fn part(&self, left: usize, top: usize, w: usize, h: usize) -> Picture {
        let rows = self.values.chunks(self.width * 3).skip(top).take(h);
        let values = rows.flat_map(|row| row[left * 3..(left + w) * 3].iter().copied()).collect();
        Picture { width: w, height: h, values }
    }

    /// Every pixel repeated to the given size.
    pub fn resize_nearest(&self, height: usize, width: usize) -> Picture {
        let mut values = Vec::with_capacity(width * height * 3);
        for i in 0..height {
            for j in 0..width {
                let at = (i * self.height / height * self.width + j * self.width / width) * 3;
                values.extend_from_slice(&self.values[at..at + 3]);
            }
        }
        Picture { width, height, values }
    }

    /// Values limited to [-1, 1].
    pub fn clamped(mut self) -> Picture {
        self.values.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
        self
    }
}

/// Reads a mask or kernel picture as grey values in [0, 1]: (width, height, values).
pub fn read_grey(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let grey = decode(path)?.0.to_luma16();
    let values = grey.as_raw().iter().map(|&v| f32::from(v) / 65_535.0).collect();
    Ok((grey.width() as usize, grey.height() as usize, values))
}

fn decode(path: &Path) -> Result<(DynamicImage, ColorType)> {
    let refuse = |reason: String| Error::Image { path: path.into(), reason };
    if std::fs::metadata(path).map_err(Error::io(path))?.len() == 0 {
        return Err(refuse("the file is empty".into()));
    }
    let mut reader = ImageReader::open(path).and_then(|r| r.with_guessed_format()).map_err(Error::io(path))?;
    reader.no_limits();
    let unreadable = |e: image::ImageError| refuse(format!("not a readable picture ({e})"));
    let decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    if width > LONGEST_SIDE || height > LONGEST_SIDE || width == 0 || height == 0 {
        return Err(refuse(format!("{width}x{height} pixels; scale it to at most {LONGEST_SIDE} on a side first")));
    }
    let color = decoder.color_type();
    Ok((DynamicImage::from_decoder(decoder).map_err(unreadable)?, color))
}

fn over_white(picture: &DynamicImage) -> RgbImage {
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|v| ((v * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

/// Writes an RGB picture as PNG; the file appears whole or not at all.
pub fn write_png(path: &Path, rgb: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    rgb.write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| Error::Image { path: path.into(), reason: format!("can't be encoded: {e}") })?;
    write_whole(path, bytes.get_ref())
}

/// Writes to a temporary name in the same folder, then renames, so that no half-written file is ever seen.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = std::fs::File::create(&partial).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_data()
    });
    written.and_then(|()| std::fs::rename(&partial, path)).map_err(|e| {
        let _ = std::fs::remove_file(&partial);
        Error::io(path)(e)
    })
}
