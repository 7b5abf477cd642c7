//! Pictures: reads photos in all common formats, and writes PNG files atomically.

mod container;
mod picture;
mod read;

pub(crate) use picture::write_whole_with;
pub use picture::{Picture, write_png, write_whole};
pub use read::{MOST_PIXELS, Photo, ReadOptions, read_grey};
