//! `Graph` records operations; nothing is computed here.
//!
//! A node is an [`Op`] with inputs, outputs and a name (the module path of its weights). Shapes are checked when
//! the node is added. [`backward`] appends the vector-Jacobian products; [`Plan`] decides where everything lives.

mod backward;
mod plan;
mod recompute;
mod schedule;
mod verify;

pub use backward::{Reverse, adjoint, backward};
pub(crate) use plan::ALIGNMENT;
pub use plan::{MemoryPoint, Placement, Plan, PlanOptions, Window};
pub use schedule::{Instance, Step};

use crate::error::{Error, Result};
use crate::ops::Op;
use std::sync::Arc;

/// Extent of a tensor, channels fastest in memory.
///
/// Weights use the same four letters: a convolution's are (out, height, width, in), a linear layer's (out, 1, 1, in),
/// a vector (1, 1, 1, c).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// Batch items.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels, contiguous in memory.
    pub c: usize,
}

impl Shape {
    /// The shape (n, h, w, c).
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Self {
        Shape { n, h, w, c }
    }
    /// A vector of length `c`.
    pub const fn vector(c: usize) -> Self {
        Shape { n: 1, h: 1, w: 1, c }
    }
    /// One row of `c` values per batch item.
    pub const fn rows(n: usize, c: usize) -> Self {
        Shape { n, h: 1, w: 1, c }
    }
    /// All elements.
    pub const fn numel(&self) -> usize {
        self.n * self.item()
    }
    /// Elements of one batch item.
    pub const fn item(&self) -> usize {
        self.h * self.w * self.c
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}, {}, {}, {})", self.n, self.h, self.w, self.c)
    }
}

/// Storage type of a tensor in memory. Arithmetic accumulates in f32 whatever the storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        if matches!(self, Dtype::F32) { 4 } else { 2 }
    }

    /// `f32`, `f16` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// Which type a tensor is stored in: activations and weights follow the `--precision` of the run, while what the sampler
/// keeps (x_t, gradients at x_t, schedule, statistics, norms) is always f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// The storage type of the run.
    Storage,
    /// Always f32.
    Full,
}

/// Names a tensor of one [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TensorId(pub(crate) u32);

/// Names a node of one [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub(crate) u32);

/// Where a tensor comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Written by the host before a run.
    Input,
    /// A weight of the model, named as in the checkpoint.
    Weight,
    /// A fixed table made with the graph, for example the taps of a resize.
    Constant(Arc<Vec<f32>>),
    /// Output of a node.
    Node(NodeId),
}

/// A tensor as the graph knows it: no data, only its description.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Weight name, input name, or the node's name with the output's.
    pub name: String,
    /// Extent.
    pub shape: Shape,
    /// Storage class.
    pub precision: Precision,
    /// Where it comes from.
    pub source: Source,
}

/// One recorded operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// Module path of its weights, or what it computes.
    pub name: String,
    /// The operation with its parameters.
    pub op: Arc<dyn Op>,
    /// What it reads, in the order that the op documents.
    pub inputs: Vec<TensorId>,
    /// What it writes.
    pub outputs: Vec<TensorId>,
    /// True for nodes that [`backward`] appended and for those recorded after it.
    pub reverse: bool,
}

/// Records nodes in an order in which they can run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
    outputs: Vec<TensorId>,
    in_reverse: bool,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// All tensors; a [`TensorId`] is an index into this.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// All nodes in recorded order; a [`NodeId`] is an index into this.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Tensors that the host reads after a run.
    pub fn outputs(&self) -> &[TensorId] {
        &self.outputs
    }

    /// The description of `id`.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Extent of `id`.
    pub fn shape(&self, id: TensorId) -> Shape {
        self.tensor(id).shape
    }

    fn push(&mut self, tensor: Tensor) -> TensorId {
        self.tensors.push(tensor);
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// A tensor that the host writes before each run; always f32.
    pub fn input(&mut self, name: &str, shape: Shape) -> TensorId {
        self.push(Tensor { name: name.into(), shape, precision: Precision::Full, source: Source::Input })
    }

    /// The weight `name` of the model. Asking twice for one name gives the same tensor.
    pub fn weight(&mut self, name: &str, shape: Shape) -> TensorId {
        let known =
            self.tensors.iter().position(|t| matches!(t.source, Source::Weight) && t.name == name && t.shape == shape);
        if let Some(i) = known {
            return TensorId(i as u32);
        }
        self.push(Tensor { name: name.into(), shape, precision: Precision::Storage, source: Source::Weight })
    }

    /// A fixed table.
    pub fn constant(&mut self, name: &str, shape: Shape, values: Vec<f32>) -> TensorId {
        assert_eq!(shape.numel(), values.len(), "constant {name} has shape {shape}");
        let source = Source::Constant(Arc::new(values));
        self.push(Tensor { name: name.into(), shape, precision: Precision::Full, source })
    }

    /// Records `op`; gives its outputs. An error names the node.
    pub fn add(&mut self, op: impl Op + 'static, name: &str, inputs: &[TensorId]) -> Result<Vec<TensorId>> {
        let described: Vec<&Tensor> = inputs.iter().map(|&i| self.tensor(i)).collect();
        let outputs =
            op.infer(&described).map_err(|reason| Error::Graph { node: name.to_string(), op: op.name(), reason })?;
        let id = NodeId(self.nodes.len() as u32);
        let outputs = outputs
            .into_iter()
            .map(|o| {
                let name = if o.name.is_empty() { name.to_string() } else { format!("{name}.{}", o.name) };
                self.push(Tensor { name, shape: o.shape, precision: o.precision, source: Source::Node(id) })
            })
            .collect::<Vec<_>>();
        self.nodes.push(Node {
            name: name.to_string(),
            op: Arc::new(op),
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            reverse: self.in_reverse,
        });
        Ok(outputs)
    }

    /// Records an `op` with one output.
    pub fn one(&mut self, op: impl Op + 'static, name: &str, inputs: &[TensorId]) -> Result<TensorId> {
        Ok(self.add(op, name, inputs)?[0])
    }

    /// Marks `id` as read by the host after a run: it survives until then.
    pub fn output(&mut self, id: TensorId) {
        if !self.outputs.contains(&id) {
            self.outputs.push(id);
        }
    }
}
