//! A `Graph` records operations; it computes nothing.
//!
//! A node is an [`Op`] with inputs, outputs and a name (the module path of its weights). Shapes are
//! checked when a node is added. [`backward`] appends the vector-Jacobian products; [`Plan`]
//! decides the memory location of every value.

mod backward;
mod lifetimes;
mod plan;
mod recompute;
pub(crate) mod record;
mod reverse;
mod schedule;
mod verify;

pub use crate::tensor::{Dtype, Precision, Shape};
pub use backward::{Target, adjoint, backward, gradients};
pub(crate) use lifetimes::ALIGNMENT;
pub use plan::{MemoryPoint, Placement, Plan, PlanOptions, Window};
pub use record::{CpuArguments, Graph, Node, NodeId, Op, Output, Reverse, Source, Tensor, TensorId, TrainedWeight};
pub use schedule::{Instance, Step};
