//! A graph, its nodes, and the operations that they hold.
//!
//! Graph, operation and VJP rule stand in one file because they speak of each other: a node holds an [`Op`], whose rule for the
//! gradient appends nodes to the [`Graph`] through a [`Reverse`].

use crate::error::{Error, Result};
use crate::launch::Recorder;
use crate::tensor::{Precision, Shape, WeightPart};
use std::sync::Arc;

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
    /// A weight of the model: tensors of the checkpoint whose rows (output channels) follow each other, mostly one.
    Weight(Arc<[WeightPart]>),
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
    /// True for nodes that [`backward`](super::backward()) appended and for those recorded after it.
    pub reverse: bool,
}

/// Records nodes in an order in which they can run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(super) tensors: Vec<Tensor>,
    pub(super) nodes: Vec<Node>,
    outputs: Vec<TensorId>,
    pub(super) in_reverse: bool,
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

    /// The first input called `name`.
    pub fn find_input(&self, name: &str) -> Option<TensorId> {
        let place = self.tensors.iter().position(|t| matches!(t.source, Source::Input) && t.name == name);
        place.map(|i| TensorId(i as u32))
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
        self.weight_of_parts(name, &[WeightPart { name: name.into(), shape }])
    }

    /// Weights of the model whose rows (n) follow each other, as one called `name`: layers that read the same values become one
    /// product. The parts have the same h, w and c.
    pub fn weight_of_parts(&mut self, name: &str, parts: &[WeightPart]) -> TensorId {
        let shape = Shape { n: parts.iter().map(|p| p.shape.n).sum(), ..parts[0].shape };
        let is_known = |t: &Tensor| matches!(t.source, Source::Weight(_)) && t.name == name && t.shape == shape;
        if let Some(i) = self.tensors.iter().position(is_known) {
            return TensorId(i as u32);
        }
        let source = Source::Weight(parts.into());
        self.push(Tensor { name: name.into(), shape, precision: Precision::Storage, source })
    }

    /// The tensors of the model's files that the graph reads.
    pub fn weight_parts(&self) -> impl Iterator<Item = &WeightPart> {
        self.tensors.iter().flat_map(|t| match &t.source {
            Source::Weight(parts) => &parts[..],
            _ => &[],
        })
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

/// Why gradients of gradients are refused.
pub(crate) const FIRST_ORDER_ONLY: &str = "only first derivatives are derived";

/// Description of one output of an op.
pub struct Output {
    /// Empty for the main output, else what it is (`mean`, `lse`).
    pub name: &'static str,
    /// Extent.
    pub shape: Shape,
    /// Storage class.
    pub precision: Precision,
}

/// An output in the storage type of the run.
pub(crate) fn storage(shape: Shape) -> Output {
    Output { name: "", shape, precision: Precision::Storage }
}

/// An output that is always f32.
pub(crate) fn full(name: &'static str, shape: Shape) -> Output {
    Output { name, shape, precision: Precision::Full }
}

/// An operation: its rule for shapes, its derivative, its cost, its code.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// One name everywhere: file, kernel, case table, bench row.
    fn name(&self) -> &'static str;

    /// Outputs for these inputs, or what was expected and found.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String>;

    /// Appends the vector-Jacobian product for every input that [`Reverse::wants`] one.
    fn vjp(&self, reverse: &mut Reverse<'_>) -> Result<()>;

    /// Operations of one run, 2 per multiply-add.
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64;

    /// Inputs whose place the first output may take over.
    fn in_place(&self) -> &'static [usize] {
        &[]
    }

    /// Runs on the CPU.
    fn run_cpu(&self, launch: &mut CpuArguments<'_>);

    /// Records the kernel launches of one run on a CUDA device. An op that a program brings along may do without.
    fn record_cuda(&self, _: &mut Recorder<'_>) -> Result<()> {
        Err(Error::Device(format!("the operation {} has no CUDA kernel; use --device cpu", self.name())))
    }
}

/// Data of one run of an op on the CPU.
pub struct CpuArguments<'a> {
    /// Input data. If the op runs in place, input `in_place` is an empty slice: its data are already in output 0.
    pub inputs: Vec<&'a [f32]>,
    /// Outputs, to be written in full.
    pub outputs: Vec<&'a mut [f32]>,
    /// Extents of the inputs.
    pub input_shapes: Vec<Shape>,
    /// Extents of the outputs.
    pub output_shapes: Vec<Shape>,
    /// Input that the first output has taken the place of.
    pub in_place: Option<usize>,
}

impl<'a> CpuArguments<'a> {
    /// Input `i`, or none if it already stands in the first output.
    pub fn input_unless_in_place(&self, i: usize) -> Option<&'a [f32]> {
        (self.in_place != Some(i)).then(|| self.inputs[i])
    }
}

/// Fails unless there are `expected` inputs.
pub(crate) fn expect_inputs(inputs: &[&Tensor], expected: usize) -> Result<(), String> {
    if inputs.len() == expected {
        return Ok(());
    }
    Err(format!("expected {expected} inputs, found {}", inputs.len()))
}

/// Fails unless `tensor` has the shape `expected`.
pub(crate) fn expect_shape(tensor: &Tensor, expected: Shape) -> Result<(), String> {
    if tensor.shape == expected {
        return Ok(());
    }
    Err(format!("{} should have shape {expected} but has {}", tensor.name, tensor.shape))
}

/// What an op's VJP rule sees: its node, the gradients of its outputs, and which inputs want one.
pub struct Reverse<'a> {
    /// The graph, to which the rule appends its nodes.
    pub graph: &'a mut Graph,
    /// The node that is walked through.
    pub node: Node,
    pub(super) douts: Vec<Option<TensorId>>,
    pub(super) wanted: Vec<bool>,
    pub(super) given: Vec<Option<TensorId>>,
    pub(super) accumulated: Vec<Option<TensorId>>,
}

impl Reverse<'_> {
    /// Gradient of the objective by output `i`; an error if only another output has one.
    pub fn dout(&self, i: usize) -> Result<TensorId> {
        self.douts[i].ok_or_else(|| self.refusal(0, "its statistics output has no gradient"))
    }

    /// Gradient by output `i` where there is one.
    pub fn dout_if_any(&self, i: usize) -> Option<TensorId> {
        self.douts.get(i).copied().flatten()
    }

    /// Input `i` of the node.
    pub fn input(&self, i: usize) -> TensorId {
        self.node.inputs[i]
    }

    /// Output `i` of the node.
    pub fn out(&self, i: usize) -> TensorId {
        self.node.outputs[i]
    }

    /// Extent of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.graph.shape(self.node.inputs[i])
    }

    /// True if the objective's gradient by input `i` is on the way to what was asked for.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted[i]
    }

    /// Takes what other nodes already added to the gradient of input `i`, for a VJP kernel that adds to it as it
    /// writes. The rule's own gradient then replaces the sum.
    pub fn accumulate(&mut self, i: usize) -> Option<TensorId> {
        self.accumulated[i].take()
    }

    /// States the gradient by input `i`.
    pub fn give(&mut self, i: usize, gradient: TensorId) {
        debug_assert_eq!(self.graph.shape(gradient).numel(), self.shape(i).numel(), "{}", self.node.name);
        self.given[i] = Some(gradient);
    }

    /// Fails, with `reason`, if a gradient by any of `inputs` is wanted.
    pub fn not_differentiable(&self, inputs: impl IntoIterator<Item = usize>, reason: &'static str) -> Result<()> {
        match inputs.into_iter().find(|&i| self.wanted[i]) {
            Some(i) => Err(self.refusal(i, reason)),
            None => Ok(()),
        }
    }

    fn refusal(&self, input: usize, reason: &'static str) -> Error {
        Error::NotDifferentiable { node: self.node.name.clone(), op: self.node.op.name(), input, reason }
    }

    /// Name for a node appended by the rule.
    pub fn name(&self) -> String {
        format!("{}.vjp", self.node.name)
    }
}
