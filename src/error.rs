//! The one error type of the library. Context is in the variants: file, tensor, node, expected and found.

use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {}", shown(path), sentence(&cause.to_string()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// A picture, mask or kernel file that can't be used.
    #[error("{}: {}", shown(path), sentence(reason))]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A weight file that can't be used: truncated, hostile, or of another model.
    #[error("{}: {}", shown(path), sentence(reason))]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, with tensor names and shapes.
        reason: String,
    },
    /// A value given by the caller that can't work.
    #[error("{}", sentence(.0))]
    Invalid(String),
    /// A node could not be added to a graph.
    #[error("node {} ({op}): {}", sentence(node), sentence(reason))]
    Graph {
        /// Name of the node: the module path of its weights.
        node: String,
        /// Name of the operation.
        op: &'static str,
        /// Expected and found.
        reason: String,
    },
    /// A gradient was asked for through an input that has none.
    #[error("node {} ({op}) has no gradient to its input {input}: {reason}", sentence(node))]
    NotDifferentiable {
        /// Name of the node.
        node: String,
        /// Name of the operation.
        op: &'static str,
        /// Position of the input.
        input: usize,
        /// Why there is none.
        reason: &'static str,
    },
    /// The memory budget can't be met by any plan.
    #[error(
        "the memory budget of {} is too small: the smallest plan needs {} MiB, {} of it weights",
        readable(*given), (smallest >> 20) + 1, readable(*weights)
    )]
    Budget {
        /// Bytes allowed, weights included.
        given: u64,
        /// Bytes of the smallest plan found, weights included.
        smallest: u64,
        /// Bytes of the weights.
        weights: u64,
    },
    /// A plan that breaks its own rules; a defect of this crate.
    #[error("the plan is not valid: {}", sentence(.0))]
    Plan(String),
    /// The device asked for is not there or can't be used: no driver, no such number, too old.
    #[error("{}", sentence(.0))]
    Device(String),
    /// The device or the machine has not enough memory.
    #[error("{}", sentence(.0))]
    Memory(String),
    /// The device failed at work: a kernel, a copy, the driver.
    #[error("{}", sentence(.0))]
    Failed(String),
    /// A value became infinite or NaN.
    #[error("{}{}", item.map_or(String::new(), |i| format!("image {i} of the batch: ")), sentence(reason))]
    NotFinite {
        /// The item of the batch, where one is known.
        item: Option<usize>,
        /// Which value, where, and what helps.
        reason: String,
    },
    /// The progress callback asked to stop.
    #[error("stopped before the end")]
    Cancelled,
}

impl Error {
    /// An [`Error::Io`] for `path`, for use with `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |cause| Error::Io { path, cause }
    }

    /// Who has to act.
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
    /// The caller: a file, a value or a setting that can't work. The program exits with 2.
    BadInput,
    /// The machine's owner or the authors of this crate: memory, disk, device or a defect. The program exits with 1.
    Failure,
    /// Nobody: the caller stopped the run. The program exits with 130.
    Cancelled,
}

impl ErrorKind {
    /// The exit code of a program that ends with such an error.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::BadInput => 2,
            ErrorKind::Failure => 1,
            ErrorKind::Cancelled => 130,
        }
    }
}

/// Longest part of a sentence; what a file says can be of any length.
const LONGEST: usize = 2000;

/// A path, or text out of a file, for people: characters that a terminal would obey are written as escapes.
pub fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().to_string_lossy().chars().map(escaped).collect()
}

/// Control characters, breaks of lines, and marks that turn the direction of what follows.
fn escaped(c: char) -> String {
    let is_obeyed = c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if is_obeyed { c.escape_default().to_string() } else { c.to_string() }
}

/// A reason as one line. It may quote a file: see [`shown`]. A long one loses its middle.
fn sentence(reason: &str) -> String {
    let length = reason.chars().count();
    if length <= LONGEST {
        return shown(reason);
    }
    let part = |from: usize, to: usize| reason.chars().skip(from).take(to - from).map(escaped).collect::<String>();
    format!("{} ... {}", part(0, LONGEST / 2), part(length - LONGEST / 2, length))
}

/// Bytes for people: `2.50 GiB`, `12.0 MiB`, `3.1 KiB`, `17 bytes`.
pub fn readable(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{kib:.1} KiB"),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.2} GiB", kib / 1_048_576.0),
    }
}

/// The known name that is most like `name`; none where nothing is known.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |k: &str| strsim::jaro_winkler(name, k);
    known.into_iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
