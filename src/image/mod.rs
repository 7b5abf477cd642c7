//! Pictures: reading photos of any usual kind, and writing PNG files whole or not at all.

mod container;
mod picture;
mod read;

pub use picture::{Picture, write_png, write_whole};
pub use read::{MOST_PIXELS, Photo, ReadOptions, read_grey};
