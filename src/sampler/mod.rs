//! Samplers: one file per method, each recorded in the words of its paper.
//!
//! ```text
//!     Method::record --Step--> phases: graphs with states     Settings, Schedule --> levels: the numbers of each step
//!                                   |                                                   |
//!     Restorer: plans, allocates, and for each level  Method::run --Chain--> runs phases, hands their states on
//! ```

mod auto;
pub mod batch;
mod builder;
pub mod chain;
mod condition;
pub mod guidance;
pub mod level;
pub mod measurement;
mod measurement_file;
pub mod method;
pub mod methods;
pub mod phase;
pub mod phases;
pub mod preset;
mod progress;
mod proximal;
pub mod restorer;
pub mod schedule;
pub mod settings;
pub mod setup;
pub mod step;
pub mod through;
mod trace;
pub mod whitening;

pub use builder::RestorerBuilder;
pub use chain::Chain;
pub use condition::check_condition;
pub use guidance::{Guidance, StepRule, WHITEN};
pub use level::{Level, Moment};
pub use measurement::{Measurement, Measurer, Noise};
pub use measurement_file::MeasurementFile;
pub use method::{Answer, Conditioned, Method, Start};
pub use methods::{METHODS, MethodRow, parse_method};
pub use phase::Phase;
pub use phases::Phases;
pub use progress::Progress;
pub use restorer::run::{Restoration, Run};
pub use restorer::{Item, Restorer};
pub use schedule::{Schedule, Spacing, Variance};
pub use settings::Settings;
pub use setup::Setup;
pub use step::spectral::{SingularVectors, SpectralLevel};
pub use step::{Estimate, Posterior, Scalar, Step};
pub use trace::Trace;
