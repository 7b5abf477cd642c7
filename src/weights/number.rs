//! The number types of weight files.

/// The type of a tensor's elements in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// 64-bit floating point.
    F64,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// 16-bit floating point with the exponent of f32.
    Bf16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// A type that is never read: its name and its size in bytes.
    Other(&'static str, usize),
}

impl Number {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Number::F64 => "f64",
            Number::F32 => "f32",
            Number::F16 => "f16",
            Number::Bf16 => "bf16",
            Number::I64 => "i64",
            Number::I32 => "i32",
            Number::I16 => "i16",
            Number::I8 => "i8",
            Number::U64 => "u64",
            Number::U32 => "u32",
            Number::U16 => "u16",
            Number::U8 => "u8",
            Number::Bool => "bool",
            Number::Other(name, _) => name,
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Number::F64 | Number::I64 | Number::U64 => 8,
            Number::F32 | Number::I32 | Number::U32 => 4,
            Number::F16 | Number::Bf16 | Number::I16 | Number::U16 => 2,
            Number::I8 | Number::U8 | Number::Bool => 1,
            Number::Other(_, bytes) => bytes,
        }
    }

    /// True for the types that weights may have.
    pub fn is_float(self) -> bool {
        matches!(self, Number::F64 | Number::F32 | Number::F16 | Number::Bf16)
    }

    /// Appends the little-endian elements in `bytes` to `out`. An error names the value that has no
    /// f32 equivalent.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), String> {
        match self {
            Number::F64 => floats(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Number::F32 => floats(bytes, out, f32::from_le_bytes),
            Number::F16 => floats(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
            Number::Bf16 => floats(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
            Number::I64 => integers(bytes, out, |b| i64::from_le_bytes(b).into()),
            Number::I32 => integers(bytes, out, |b| i32::from_le_bytes(b).into()),
            Number::I16 => integers(bytes, out, |b| i16::from_le_bytes(b).into()),
            Number::I8 => integers(bytes, out, |b| i8::from_le_bytes(b).into()),
            Number::U64 => integers(bytes, out, |b| u64::from_le_bytes(b).into()),
            Number::U32 => integers(bytes, out, |b| u32::from_le_bytes(b).into()),
            Number::U16 => integers(bytes, out, |b| u16::from_le_bytes(b).into()),
            Number::U8 | Number::Bool => integers(bytes, out, |b| u8::from_le_bytes(b).into()),
            Number::Other(name, _) => Err(format!("{name} values, which can't be read")),
        }
    }
}

fn floats<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, value: impl Fn([u8; N]) -> f32) -> Result<(), String> {
    let first = out.len();
    out.extend(bytes.as_chunks().0.iter().map(|&b| value(b)));
    match out[first..].iter().position(|v| !v.is_finite()) {
        Some(i) => Err(format!("{} at position {}; the file is damaged", out[first + i], first + i)),
        None => Ok(()),
    }
}

fn integers<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, value: impl Fn([u8; N]) -> i128) -> Result<(), String> {
    for &b in bytes.as_chunks().0 {
        let (exact, position) = (value(b), out.len());
        out.push(exact as f32);
        if exact as f32 as i128 != exact {
            return Err(format!("{exact} at position {position}, a whole number that f32 can't hold"));
        }
    }
    Ok(())
}
