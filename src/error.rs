//! The one error type of the library. Context is in the variants: file, tensor, node, expected and found.

use std::path::PathBuf;

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A picture, mask or kernel file that can't be used.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A weight file that can't be used: truncated, hostile, or of another model.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, with tensor names and shapes.
        reason: String,
    },
    /// A value given by the caller that can't work.
    #[error("{0}")]
    Invalid(String),
    /// A node could not be added to a graph.
    #[error("node {node} ({op}): {reason}")]
    Graph {
        /// Name of the node: the module path of its weights.
        node: String,
        /// Name of the operation.
        op: &'static str,
        /// Expected and found.
        reason: String,
    },
    /// A gradient was asked for through an input that has none.
    #[error("node {node} ({op}) has no gradient to its input {input}: {reason}")]
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
        "the memory budget of {} MiB is too small: the smallest plan needs {} MiB, {} MiB of it weights",
        given >> 20, (smallest >> 20) + 1, weights >> 20
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
    #[error("the plan is not valid: {0}")]
    Plan(String),
    /// The device asked for is not there.
    #[error("{0}")]
    Device(String),
    /// The progress callback asked to stop.
    #[error("stopped before the end")]
    Cancelled,
}

impl Error {
    /// An [`Error::Io`] for `path`, for use with `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// True where the input is at fault rather than the machine or this crate: the program exits with 2.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Error::Plan(_) | Error::NotDifferentiable { .. } | Error::Cancelled)
    }
}
