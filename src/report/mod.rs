//! Reports on restored images: `result.json`, the side-by-side picture and HTML pages.

mod analysis;
mod benchmark;
mod chart;
mod comparison;
mod dots;
mod failures;
mod figure_table;
mod html;
mod methods;
mod page;
mod recipe;
mod restoration;
mod result;
mod step_log;
mod view;

pub use analysis::analysis_page;
pub use benchmark::{BenchmarkRow, benchmark_page};
pub use chart::Chart;
pub use comparison::comparison;
pub use dots::{DotRow, dots};
pub use failures::Failures;
pub use figure_table::{Column, FigureTable};
pub use html::{
    Html, bar, captioned, compared, compared_by_choice, definitions, picture, recorded, small_table, table,
};
pub use methods::{MethodsReport, ShownPhoto};
pub use page::{check_place, page, write_page};
pub use recipe::Recipe;
pub use restoration::{RestorationReport, ShownImage};
pub use result::ImageResult;
pub use step_log::StepLog;
pub use view::view;
