//! Checks of picture files that the decoders do not make.

use image::metadata::Orientation;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// True if a JPEG has an end marker after the start of its scan. The decoder accepts a truncated
/// file without an error.
pub(super) fn jpeg_ends(path: &Path) -> std::io::Result<bool> {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(2))?;
    let mut segment = [0; 4];
    while file.read_exact(&mut segment).is_ok() {
        let [0xff, kind, high, low] = segment else { break };
        // A segment is skipped, because a thumbnail in it has an end marker of its own.
        file.seek_relative(i64::from(u16::from_be_bytes([high, low])) - 2)?;
        if kind == START_OF_SCAN {
            break;
        }
    }
    let mut before = 0;
    loop {
        let bytes = file.fill_buf()?;
        let length = bytes.len();
        if length == 0 {
            return Ok(false);
        }
        for &byte in bytes {
            if (before, byte) == (0xff, END_OF_IMAGE) {
                return Ok(true);
            }
            before = byte;
        }
        file.consume(length);
    }
}

/// The orientation of a PNG whose EXIF chunk follows the pixels. Some programs put it there, and
/// the decoder does not read it.
pub(super) fn late_orientation(path: &Path) -> Option<Orientation> {
    let mut file = BufReader::new(File::open(path).ok()?);
    file.seek(SeekFrom::Start(8)).ok()?;
    let mut head = [0; 8];
    while file.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if &head[4..] == b"eXIf" && length < 1 << 20 {
            let mut exif = vec![0; length as usize];
            file.read_exact(&mut exif).ok()?;
            return Orientation::from_exif_chunk(&exif);
        }
        file.seek_relative(i64::from(length) + 4).ok()?;
    }
    None
}

/// True if the colour profile and the EXIF data of a WebP lie within the file and take at most
/// `most` bytes each. The decoder would allocate any size that the file claims.
pub(super) fn webp_metadata_fit(path: &Path, most: u64) -> std::io::Result<bool> {
    let file = File::open(path)?;
    let (length, mut at) = (file.metadata()?.len(), 12);
    let mut file = BufReader::new(file);
    file.seek(SeekFrom::Start(at))?;
    let mut head = [0; 8];
    while file.read_exact(&mut head).is_ok() {
        let bytes = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        at += 8 + bytes;
        if matches!(&head[..4], b"ICCP" | b"EXIF") && (bytes > most || at > length) {
            return Ok(false);
        }
        // Chunks start at even offsets.
        at += bytes % 2;
        file.seek_relative((bytes + bytes % 2) as i64)?;
    }
    Ok(true)
}
