//! Pictures in memory, and atomic writing of files.

use crate::error::{Error, Result};
use image::{DynamicImage, GrayImage, RgbImage};
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// An RGB picture with values in [-1, 1], (height, width, 3) in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `height * width * 3` values, channels fastest.
    pub values: Vec<f32>,
}

impl Picture {
    /// Converts 8-bit values to [-1, 1].
    pub fn from_rgb8(rgb: &RgbImage) -> Picture {
        let values = rgb.as_raw().iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
        Picture { width: rgb.width() as usize, height: rgb.height() as usize, values }
    }

    /// Converts to 8-bit values; values outside [-1, 1] are clamped.
    pub fn to_rgb8(&self) -> RgbImage {
        let bytes = self.values.iter().map(|v| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8).collect();
        RgbImage::from_raw(self.width as u32, self.height as u32, bytes).expect("three values per pixel")
    }

    /// Writes a PNG. The file appears complete or not at all.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        write_png(path, &self.to_rgb8())
    }

    /// The bytes of a PNG file.
    pub fn png(&self) -> Result<Vec<u8>> {
        png_bytes(&DynamicImage::ImageRgb8(self.to_rgb8())).map_err(Error::Invalid)
    }

    /// The picture reduced by a triangle filter until no side has more than `side` pixels; a
    /// smaller one as it is.
    pub fn at_most(&self, side: usize) -> Picture {
        let largest = self.width.max(self.height);
        if largest <= side {
            return self.clone();
        }
        let [w, h] = [self.width, self.height].map(|v| (v * side / largest).max(1));
        self.resize_triangle(w, h)
    }

    /// Resizes the picture in 8 bits by a triangle filter, which widens where the picture is
    /// reduced, so that nothing aliases.
    pub fn resize_triangle(&self, width: usize, height: usize) -> Picture {
        let (w, h) = (width as u32, height as u32);
        Picture::from_rgb8(&image::imageops::resize(&self.to_rgb8(), w, h, image::imageops::FilterType::Triangle))
    }

    /// Writes the mean of the channels as a grey PNG. The file appears complete or not at all.
    pub fn write_grey_png(&self, path: &Path) -> Result<()> {
        let bytes = self.clone().grey().to_rgb8().into_raw().into_iter().step_by(3).collect();
        let grey = GrayImage::from_raw(self.width as u32, self.height as u32, bytes).expect("a value per pixel");
        encode_png(path, &DynamicImage::ImageLuma8(grey))
    }

    /// True if the channels of every pixel are equal.
    pub fn is_grey(&self) -> bool {
        self.values.chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[0] == pixel[2])
    }

    /// Sets every channel to the mean of the three channels.
    pub fn grey(mut self) -> Picture {
        for pixel in self.values.chunks_exact_mut(3) {
            let mean = pixel.iter().sum::<f32>() / 3.0;
            pixel.fill(mean);
        }
        self
    }

    /// The centre crop of `width` x `height` pixels, or less if the picture is smaller.
    pub fn centre_crop(&self, width: usize, height: usize) -> Picture {
        let (w, h) = (width.min(self.width), height.min(self.height));
        self.part((self.width - w) / 2, (self.height - h) / 2, w, h)
    }

    /// The crop of `w` x `h` pixels whose top left pixel is (`left`, `top`).
    pub fn part(&self, left: usize, top: usize, w: usize, h: usize) -> Picture {
        let rows = self.values.chunks(self.width * 3).skip(top).take(h);
        let values = rows.flat_map(|row| row[left * 3..(left + w) * 3].iter().copied()).collect();
        Picture { width: w, height: h, values }
    }

    /// Resizes by nearest neighbour.
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

    /// A map along the width and then one along the height. `rows` and `columns` have, for every
    /// position of the output, the positions that it reads with their weights.
    pub fn along_axes(&self, rows: &[Vec<(usize, f32)>], columns: &[Vec<(usize, f32)>]) -> Picture {
        let (height, width) = (rows.len(), columns.len());
        let mut narrow = vec![0f32; self.height * width * 3];
        for i in 0..self.height {
            for (j, taps) in columns.iter().enumerate() {
                for c in 0..3 {
                    narrow[(i * width + j) * 3 + c] =
                        taps.iter().map(|&(k, w)| w * self.values[(i * self.width + k) * 3 + c]).sum();
                }
            }
        }
        let mut values = vec![0f32; height * width * 3];
        for (i, taps) in rows.iter().enumerate() {
            let out = &mut values[i * width * 3..(i + 1) * width * 3];
            for &(k, w) in taps {
                out.iter_mut().zip(&narrow[k * width * 3..]).for_each(|(o, v)| *o += w * v);
            }
        }
        Picture { width, height, values }
    }

    /// Clamps all values to [-1, 1].
    pub fn clamped(mut self) -> Picture {
        self.values.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
        self
    }
}

/// Writes an RGB picture as PNG. The file appears complete or not at all.
pub fn write_png(path: &Path, rgb: &RgbImage) -> Result<()> {
    encode_png(path, &DynamicImage::ImageRgb8(rgb.clone()))
}

fn encode_png(path: &Path, picture: &DynamicImage) -> Result<()> {
    write_whole(path, &png_bytes(picture).map_err(|reason| Error::Image { path: path.into(), reason })?)
}

fn png_bytes(picture: &DynamicImage) -> Result<Vec<u8>, String> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).map_err(|e| format!("can't be encoded: {e}"))?;
    Ok(bytes.into_inner())
}

/// Writes to a temporary file in the same folder, then renames it, so that no partial file is ever
/// visible.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole_with(path, |partial| std::fs::write(partial, bytes)).map_err(Error::io(path))
}

/// As [`write_whole`], for a function that writes the file that it is given.
pub(crate) fn write_whole_with<E: From<std::io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    // The temporary names differ between processes and threads that write the same file.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{}.partial", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let partial = path.with_file_name(name);
    let moved = || {
        std::fs::File::options().write(true).open(&partial)?.sync_data()?;
        std::fs::rename(&partial, path)
    };
    write(&partial).and_then(|()| Ok(moved()?)).inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })
}
