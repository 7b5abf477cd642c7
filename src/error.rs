//! The error type of the library. Its variants carry the context: file, tensor, node, expected and
//! found.

use std::path::{Path, PathBuf};

/// The result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error. Its message is one sentence with the cause and, where possible, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {}", shown(path), sentence(&cause.to_string()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// A picture, mask or kernel file that can't be used.
    #[error("{}: {}", shown(path), sentence(reason))]
    Image {
        /// The file.
        path: PathBuf,
        /// The problem and its remedy.
        reason: String,
    },
    /// A weight file that can't be used: truncated, hostile, or of another model.
    #[error("{}: {}", shown(path), sentence(reason))]
    Weights {
        /// The file.
        path: PathBuf,
        /// The problem, with tensor names and shapes.
        reason: String,
    },
    /// An argument from the caller that can't work.
    #[error("{}", sentence(.0))]
    Invalid(String),
    /// A node could not be added to a graph.
    #[error("node {} ({op}): {}", sentence(node), sentence(reason))]
    Graph {
        /// Name of the node: the module path of its weights.
        node: String,
        /// Name of the operation.
        op: &'static str,
        /// The expected and the found value.
        reason: String,
    },
    /// A gradient was needed with respect to an input that has none.
    #[error("node {} ({op}) has no gradient to its input {input}: {reason}", sentence(node))]
    NotDifferentiable {
        /// Name of the node.
        node: String,
        /// Name of the operation.
        op: &'static str,
        /// Index of the input.
        input: usize,
        /// The reason why there is none.
        reason: &'static str,
    },
    /// No plan meets the memory budget.
    #[error(
        "the memory budget of {} is too small: the smallest plan needs {} MiB, {} of it weights",
        readable(*given), (smallest >> 20) + 1, readable(*weights)
    )]
    Budget {
        /// The budget in bytes, including weights.
        given: u64,
        /// Bytes of the smallest plan found, including weights.
        smallest: u64,
        /// Bytes of the weights.
        weights: u64,
    },
    /// A plan that violates its own rules: a defect of this crate.
    #[error("the plan is not valid: {}", sentence(.0))]
    Plan(String),
    /// The device does not exist or can't be used: no driver, no device with this number, or too
    /// old.
    #[error("{}", sentence(.0))]
    Device(String),
    /// The device or the machine has too little memory.
    #[error("{}", sentence(.0))]
    Memory(String),
    /// The device failed during work: a kernel, a copy or the driver.
    #[error("{}", sentence(.0))]
    Failed(String),
    /// A value became infinite or NaN.
    #[error("{}{}", item.map_or(String::new(), |i| format!("image {i} of the batch: ")), sentence(reason))]
    NotFinite {
        /// Index of the batch item, if it is known.
        item: Option<usize>,
        /// The value, its location, and a remedy.
        reason: String,
    },
    /// The progress callback asked to stop.
    #[error("stopped before the end")]
    Cancelled,
}

impl Error {
    /// An [`Error::Io`] for `path`, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |cause| Error::Io { path, cause }
    }

    /// Who has to act on this error.
    pub fn kind(&self) -> ErrorKind {
        use std::io::ErrorKind as Io;
        match self {
            Error::Io { cause, .. } => match cause.kind() {
                Io::NotFound
                | Io::PermissionDenied
                | Io::AlreadyExists
                | Io::IsADirectory
                | Io::NotADirectory
                | Io::InvalidFilename
                | Io::ReadOnlyFilesystem
                | Io::InvalidInput
                | Io::InvalidData
                | Io::UnexpectedEof => ErrorKind::BadInput,
                _ => ErrorKind::Failure,
            },
            Error::Image { .. }
            | Error::Weights { .. }
            | Error::Invalid(_)
            | Error::Graph { .. }
            | Error::Budget { .. }
            | Error::NotFinite { .. }
            | Error::Device(_) => ErrorKind::BadInput,
            Error::NotDifferentiable { .. } | Error::Plan(_) | Error::Memory(_) | Error::Failed(_) => {
                ErrorKind::Failure
            }
            Error::Cancelled => ErrorKind::Cancelled,
        }
    }
}

/// Who has to act on an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller: a file, a value or a setting is wrong. The program exits with 2.
    BadInput,
    /// The machine's owner or the authors of this crate: memory, disk, device or a defect. The
    /// program exits with 1.
    Failure,
    /// Nobody: the caller stopped the run. The program exits with 130.
    Cancelled,
}

impl ErrorKind {
    /// The exit code of a program that ends with this error.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::BadInput => 2,
            ErrorKind::Failure => 1,
            ErrorKind::Cancelled => 130,
        }
    }
}

/// Maximum number of characters of a reason; text from a file can have any length.
const LONGEST: usize = 2000;

/// A path, or text from a file, for display: characters that control a terminal are escaped.
pub fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().to_string_lossy().chars().map(escaped).collect()
}

/// Escapes control characters, line breaks, and marks that change the direction of text.
fn escaped(c: char) -> String {
    let is_obeyed = c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if is_obeyed { c.escape_default().to_string() } else { c.to_string() }
}

/// A reason as one line. Text from files is escaped, as in [`shown`], and a long reason loses its
/// middle part.
fn sentence(reason: &str) -> String {
    let length = reason.chars().count();
    if length <= LONGEST {
        return shown(reason);
    }
    let part = |from: usize, to: usize| reason.chars().skip(from).take(to - from).map(escaped).collect::<String>();
    format!("{} ... {}", part(0, LONGEST / 2), part(length - LONGEST / 2, length))
}

/// A number of bytes for display: `2.50 GiB`, `12.0 MiB`, `3.1 KiB`, `17 bytes`.
pub fn readable(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{kib:.1} KiB"),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.2} GiB", kib / 1_048_576.0),
    }
}

/// A number as people read it: four significant digits.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.2e}");
    }
    let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
    format!("{value:.decimals$}")
}

/// The known name most similar to `name`; none if `known` is empty.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |k: &str| strsim::jaro_winkler(name, k);
    known.into_iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let shown = [0.0, 0.025, 1.0, 23.6149, 123456.0, 2.5e-7, f64::NAN].map(figure);
        assert_eq!(shown, ["0", "0.02500", "1.000", "23.61", "123456", "2.50e-7", "NaN"]);
    }

    #[test]
    fn an_error_is_one_line_without_control_characters() {
        let hostile = "a\u{1b}]0;title\u{7}\r\nb\u{202e}c".to_string();
        let shown = r"a\u{1b}]0;title\u{7}\r\nb\u{202e}c";
        assert_eq!(Error::Invalid(hostile.clone()).to_string(), shown);
        let (path, reason) = (PathBuf::from(&hostile), hostile.clone());
        assert_eq!(Error::Weights { path, reason }.to_string(), format!("{shown}: {shown}"));
        let cause = std::io::Error::other(hostile);
        assert_eq!(Error::io("x")(cause).to_string(), format!("x: {shown}"));
        let long = Error::Invalid(format!("begins {} ends", "ä".repeat(1 << 20))).to_string();
        assert!(long.starts_with("begins ä") && long.ends_with("ä ends") && long.chars().count() <= LONGEST + 5);
    }
}
