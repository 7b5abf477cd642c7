//! Reports on restored images: `result.json` and the side-by-side picture.

mod comparison;
mod recipe;
mod result;
mod view;

pub use comparison::comparison;
pub use recipe::Recipe;
pub use result::ImageResult;
pub use view::view;
