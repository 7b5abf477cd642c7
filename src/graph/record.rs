//! A graph, its nodes, and the operations that they hold.
//!
//! Graph, op and VJP rule share a file because they refer to each other: a node holds an [`Op`],
//! and the rule of the op appends nodes to the [`Graph`] through a [`Reverse`].

use crate::error::{Error, Result};
use crate::launch::Recorder;
use crate::tensor::{Dtype, Precision, Shape, WeightPart};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Identifies a tensor of one [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TensorId(pub(crate) u32);

/// Identifies a node of one [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub(crate) u32);

/// The origin of a tensor.
#[derive(Clone, Debug)]
pub enum Source {
    /// Written by the host before a run. Nodes may overwrite it (see [`Graph::assign`]).
    Input,
    /// A weight of the model: tensors of the checkpoint whose rows (output channels) follow each
    /// other; mostly a single one.
    Weight(Arc<[WeightPart]>),
    /// A constant: a table such as the taps of a resize, in f32, or a weight in the storage type.
    Constant(Arc<Vec<f32>>),
    /// Output of a node.
    Node(NodeId),
}

/// The description of a tensor in a graph, without data.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Weight name, input name, or node name and output name.
    pub name: String,
    /// Shape.
    pub shape: Shape,
    /// Whether the storage type follows the run or is f32.
    pub precision: Precision,
    /// Origin of the tensor.
    pub source: Source,
}

impl Tensor {
    /// The type of its values in a run with this storage type.
    pub fn dtype(&self, storage: Dtype) -> Dtype {
        match self.precision {
            Precision::Single => Dtype::F32,
            Precision::Storage => storage,
        }
    }
}

/// One recorded operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// Module path of its weights, or a word for its purpose.
    pub name: String,
    /// The operation with its parameters.
    pub op: Arc<dyn Op>,
    /// Tensors that the node reads, in the order that the op documents.
    pub inputs: Vec<TensorId>,
    /// Tensors that the node writes.
    pub outputs: Vec<TensorId>,
    /// True for nodes that [`backward`](super::backward()) appended, and for nodes recorded after
    /// it.
    pub reverse: bool,
}

/// Records nodes in a valid order of execution.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(super) tensors: Vec<Tensor>,
    pub(super) nodes: Vec<Node>,
    outputs: Vec<TensorId>,
    pub(super) in_reverse: bool,
    /// For each value that replaces an input's: the value and the input.
    assigned: BTreeMap<TensorId, TensorId>,
    training: Option<Training>,
}

/// A weight that is trained.
#[derive(Clone, Debug)]
pub struct TrainedWeight {
    /// Its name, and the tensors of the model files that follow each other in it.
    pub name: String,
    /// As in [`Source::Weight`].
    pub parts: Arc<[WeightPart]>,
    /// The input that holds it from run to run, in f32.
    pub kept: TensorId,
    /// What the nodes read: `kept`, or a copy of it in the storage type of the run.
    pub read: TensorId,
}

/// Which weights are trained, and those recorded so far.
#[derive(Clone, Debug)]
struct Training {
    prefix: &'static str,
    copy: Option<Arc<dyn Op>>,
    weights: Vec<TrainedWeight>,
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

    /// The description of tensor `id`.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Shape of tensor `id`.
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
        self.push(Tensor { name: name.into(), shape, precision: Precision::Single, source: Source::Input })
    }

    /// The weight `name` of the model. Asking twice for one name gives the same tensor.
    pub fn weight(&mut self, name: &str, shape: Shape) -> TensorId {
        self.weight_of_parts(name, &[WeightPart { name: name.into(), shape }])
    }

    /// Weights of the model whose rows (n) follow each other, as one weight called `name`. Layers
    /// that read the same values then become one product. The parts have the same h, w and c.
    pub fn weight_of_parts(&mut self, name: &str, parts: &[WeightPart]) -> TensorId {
        let shape = Shape { n: parts.iter().map(|p| p.shape.n).sum(), ..parts[0].shape };
        if self.is_trained(&parts[0].name) {
            return self.trained_weight(name, parts, shape);
        }
        let is_known = |t: &Tensor| matches!(t.source, Source::Weight(_)) && t.name == name && t.shape == shape;
        if let Some(i) = self.tensors.iter().position(is_known) {
            return TensorId(i as u32);
        }
        let source = Source::Weight(parts.into());
        self.push(Tensor { name: name.into(), shape, precision: Precision::Storage, source })
    }

    /// From now on, weights whose names start with `prefix` are trained: they are inputs, which the
    /// host writes once and an optimiser's nodes overwrite. With `copy`, an op that copies into the
    /// storage type of the run, nodes read such a copy.
    pub fn train(&mut self, prefix: &'static str, copy: Option<Arc<dyn Op>>) {
        self.training = Some(Training { prefix, copy, weights: Vec::new() });
    }

    /// True if the weight `name` is trained.
    pub fn is_trained(&self, name: &str) -> bool {
        self.training.as_ref().is_some_and(|t| name.starts_with(t.prefix))
    }

    /// The trained weights that were recorded, in order.
    pub fn trained(&self) -> &[TrainedWeight] {
        self.training.as_ref().map_or(&[], |t| &t.weights)
    }

    fn trained_weight(&mut self, name: &str, parts: &[WeightPart], shape: Shape) -> TensorId {
        let known = self.trained().iter().find(|w| w.name == name);
        if let Some(known) = known {
            return known.read;
        }
        let kept = self.input(name, shape);
        let read = match self.training.as_ref().and_then(|t| t.copy.clone()) {
            Some(copy) => self.add_shared(copy, &format!("{name}.copy"), &[kept]).expect("any tensor can be copied")[0],
            None => kept,
        };
        let weight = TrainedWeight { name: name.into(), parts: parts.into(), kept, read };
        self.training.as_mut().expect("some weights are trained").weights.push(weight);
        read
    }

    /// Lets `value` replace the value of `input` from run to run. It lies in the input's memory, so
    /// its node must be allowed to overwrite what the input held before (see [`Op::in_place`]) and
    /// must be the last one that reads that. Fails unless both are f32 and of one shape.
    pub fn assign(&mut self, input: TensorId, value: TensorId) -> Result<()> {
        let (to, from) = (self.tensor(input), self.tensor(value));
        let refuse = |reason: String| Err(Error::Graph { node: from.name.clone(), op: "assign", reason });
        if !matches!(to.source, Source::Input) || to.shape != from.shape || from.precision != Precision::Single {
            return refuse(format!("{} of shape {} does not take it", to.name, to.shape));
        }
        if !matches!(from.source, Source::Node(_)) || self.assigned.contains_key(&value) {
            return refuse("only a new value of a node can be assigned".into());
        }
        self.assigned.insert(value, input);
        Ok(())
    }

    /// The input in whose memory a tensor lies: itself, unless it is a value that was assigned.
    pub fn home(&self, tensor: TensorId) -> TensorId {
        self.assigned.get(&tensor).copied().unwrap_or(tensor)
    }

    /// True if a tensor is a value that was assigned to an input.
    pub fn is_assigned(&self, tensor: TensorId) -> bool {
        self.assigned.contains_key(&tensor)
    }

    /// The inputs that values were assigned to.
    pub(crate) fn overwritten(&self) -> Vec<TensorId> {
        self.assigned.values().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The tensors of the model files that the graph reads.
    pub fn weight_parts(&self) -> impl Iterator<Item = &WeightPart> {
        self.tensors.iter().flat_map(|t| match &t.source {
            Source::Weight(parts) => &parts[..],
            _ => &[],
        })
    }

    /// A constant table in f32.
    pub fn constant(&mut self, name: &str, shape: Shape, values: Vec<f32>) -> TensorId {
        self.constant_in(Precision::Single, name, shape, Arc::new(values))
    }

    /// A constant in the storage type of the run, such as a weight that is not one of the model's.
    pub fn stored_constant(&mut self, name: &str, shape: Shape, values: &Arc<Vec<f32>>) -> TensorId {
        self.constant_in(Precision::Storage, name, shape, values.clone())
    }

    fn constant_in(&mut self, precision: Precision, name: &str, shape: Shape, values: Arc<Vec<f32>>) -> TensorId {
        assert_eq!(shape.numel(), values.len(), "constant {name} has shape {shape}");
        self.push(Tensor { name: name.into(), shape, precision, source: Source::Constant(values) })
    }

    /// Records `op` and returns its outputs. An error names the node.
    pub fn add(&mut self, op: impl Op + 'static, name: &str, inputs: &[TensorId]) -> Result<Vec<TensorId>> {
        self.add_shared(Arc::new(op), name, inputs)
    }

    fn add_shared(&mut self, op: Arc<dyn Op>, name: &str, inputs: &[TensorId]) -> Result<Vec<TensorId>> {
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
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            reverse: self.in_reverse,
        });
        Ok(outputs)
    }

    /// Records an `op` that has one output.
    pub fn one(&mut self, op: impl Op + 'static, name: &str, inputs: &[TensorId]) -> Result<TensorId> {
        Ok(self.add(op, name, inputs)?[0])
    }

    /// Marks `id` as an output that the host reads: its value is kept until the end of the run.
    pub fn output(&mut self, id: TensorId) {
        if !self.outputs.contains(&id) {
            self.outputs.push(id);
        }
    }
}

/// The reason given when a gradient of a gradient is asked for.
pub(crate) const FIRST_ORDER_ONLY: &str = "only first derivatives are derived";

/// The description of one output of an op.
pub struct Output {
    /// Empty for the main output, else the name of the output (`mean`, `lse`).
    pub name: &'static str,
    /// Shape.
    pub shape: Shape,
    /// Whether the storage type follows the run or is f32.
    pub precision: Precision,
}

/// The main output of an op, in the storage type of the run.
pub(crate) fn storage(shape: Shape) -> Output {
    Output { name: "", shape, precision: Precision::Storage }
}

/// An output that is always f32.
pub(crate) fn single(name: &'static str, shape: Shape) -> Output {
    Output { name, shape, precision: Precision::Single }
}

/// An operation: its shape rule, its VJP, its cost and its code.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// The name that files, kernels, the case table and benchmarks use.
    fn name(&self) -> &'static str;

    /// Outputs for these inputs. An error states what was expected and what was found.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String>;

    /// Appends the vector-Jacobian product for every input that [`Reverse::wants`].
    fn vjp(&self, reverse: &mut Reverse<'_>) -> Result<()>;

    /// Floating-point operations of one run, 2 per multiply-add.
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64;

    /// Pairs (input, output): the output may take over the input's memory. Each element is read
    /// before it is written, by the same thread.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// Runs the op on the CPU.
    fn run_cpu(&self, launch: &mut CpuArguments<'_>);

    /// Records the kernel launches of one run on a CUDA device. An op from outside this crate may
    /// omit it; it then runs on the CPU only.
    fn record_cuda(&self, _: &mut Recorder<'_>) -> Result<()> {
        Err(Error::Device(format!("the operation {} has no CUDA kernel; use --device cpu", self.name())))
    }
}

/// Data of one run of an op on the CPU.
pub struct CpuArguments<'a> {
    /// Input data. An input whose memory an output has taken over is an empty slice: its data are
    /// already in that output.
    pub inputs: Vec<&'a [f32]>,
    /// Output data; the op must write them in full.
    pub outputs: Vec<&'a mut [f32]>,
    /// Shapes of the inputs.
    pub input_shapes: Vec<Shape>,
    /// Shapes of the outputs.
    pub output_shapes: Vec<Shape>,
    /// The input whose memory the first output has taken over.
    pub in_place: Option<usize>,
}

impl<'a> CpuArguments<'a> {
    /// Input `i`, or none if its data are already in the first output.
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

/// The argument of an op's VJP rule: the node, the gradients of its outputs, and the inputs that
/// need a gradient.
pub struct Reverse<'a> {
    /// The graph to which the rule appends nodes.
    pub graph: &'a mut Graph,
    /// The node whose VJP is appended.
    pub node: Node,
    pub(super) douts: Vec<Option<TensorId>>,
    pub(super) wanted: Vec<bool>,
    pub(super) given: Vec<Option<TensorId>>,
    pub(super) accumulated: Vec<Option<TensorId>>,
}
