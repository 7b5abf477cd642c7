//! Sizes as people write them.

pub use crate::error::readable;
use crate::error::{Error, Result};

/// Bytes: `4GiB`, `1500MiB`, `2.5G`, `3000000000`.
pub fn bytes(text: &str) -> Result<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1048576.0,
        "g" | "gib" => 1073741824.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => f64::NAN,
    };
    let value = number.parse::<f64>().unwrap_or(f64::NAN) * scale;
    if value.is_finite() && value >= 1.0 {
        return Ok(value as u64);
    }
    Err(Error::Invalid(format!("{text} is not an amount of memory; write for example 4GiB or 1500MiB")))
}

/// Width and height: `256` (square) or `320x240`.
pub fn size(text: &str) -> Result<(usize, usize)> {
    let parsed = match text.split_once('x') {
        Some((w, h)) => w.parse().ok().zip(h.parse().ok()),
        None => text.parse().ok().map(|s| (s, s)),
    };
    parsed
        .filter(|&(w, h)| (1..=16_384).contains(&w) && (1..=16_384).contains(&h))
        .ok_or_else(|| Error::Invalid(format!("{text} is not a size; write for example 256 or 320x240")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_sizes() {
        assert_eq!(bytes("4GiB").unwrap(), 4 << 30);
        assert_eq!(bytes("1.5 MiB").unwrap(), 3 << 19);
        assert_eq!(bytes("2GB").unwrap(), 2_000_000_000);
        for wrong in ["", "GiB", "-1", "4 apples", "0"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("256").unwrap(), (256, 256));
        assert_eq!(size("320x240").unwrap(), (320, 240));
        for wrong in ["0", "12x", "axb", "99999"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
