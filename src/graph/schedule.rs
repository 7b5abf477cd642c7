//! The order of execution if some activations are dropped after the forward pass and recomputed in
//! the reverse pass.

use crate::graph::record::{Graph, NodeId, Source, TensorId};

/// Identifies one value of a tensor in a schedule: the first one, or a recomputed one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Instance(pub(crate) u32);

/// One step: a node with the values that it reads and writes.
#[derive(Clone, Debug)]
pub struct Step {
    /// The node.
    pub node: NodeId,
    /// Values that it reads, in the order of the node's inputs.
    pub inputs: Vec<Instance>,
    /// Values that it writes, in the order of the node's outputs.
    pub outputs: Vec<Instance>,
    /// True if the node runs a second time because its output was dropped.
    pub recomputed: bool,
}

/// Steps in order, and the tensor of each [`Instance`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    pub steps: Vec<Step>,
    pub tensor_of: Vec<TensorId>,
}

/// Forward tensors that reverse nodes read: the tensors that are kept if nothing is dropped.
pub(crate) fn saved_tensors(graph: &Graph) -> Vec<bool> {
    let mut saved = vec![false; graph.tensors().len()];
    for node in graph.nodes().iter().filter(|n| n.reverse) {
        for input in &node.inputs {
            if let Source::Node(producer) = graph.tensor(*input).source {
                saved[input.0 as usize] |= !graph.node(producer).reverse;
            }
        }
    }
    saved
}

/// Forward nodes in recorded order, then the reverse nodes. Before each reverse node come the nodes
/// that recompute its missing inputs.
pub(crate) fn schedule(graph: &Graph, saved: &[bool]) -> Schedule {
    let mut builder = Builder { graph, schedule: Schedule::default(), current: vec![None; graph.tensors().len()] };
    for (i, tensor) in graph.tensors().iter().enumerate() {
        if !matches!(tensor.source, Source::Node(_)) {
            builder.fresh(TensorId(i as u32));
        }
    }
    let mut in_reverse = false;
    for (i, node) in graph.nodes().iter().enumerate() {
        let id = NodeId(i as u32);
        if node.reverse {
            if !in_reverse {
                builder.drop_unsaved(saved);
                in_reverse = true;
            }
            for &input in &node.inputs {
                builder.ensure(input);
            }
        }
        builder.emit(id, false);
    }
    builder.schedule
}

struct Builder<'a> {
    graph: &'a Graph,
    schedule: Schedule,
    current: Vec<Option<Instance>>,
}

impl Builder<'_> {
    fn fresh(&mut self, tensor: TensorId) -> Instance {
        let instance = Instance(self.schedule.tensor_of.len() as u32);
        self.schedule.tensor_of.push(tensor);
        self.current[tensor.0 as usize] = Some(instance);
        instance
    }

    fn drop_unsaved(&mut self, saved: &[bool]) {
        for (i, tensor) in self.graph.tensors().iter().enumerate() {
            let output = self.graph.outputs().contains(&TensorId(i as u32));
            if matches!(tensor.source, Source::Node(_)) && !saved[i] && !output {
                self.current[i] = None;
            }
        }
    }

    /// Recomputes `tensor` unless it has a value. Only forward nodes are ever recomputed, because
    /// gradients stay alive until their last use.
    fn ensure(&mut self, tensor: TensorId) {
        if self.current[tensor.0 as usize].is_some() {
            return;
        }
        let Source::Node(producer) = self.graph.tensor(tensor).source else {
            unreachable!("inputs, weights and constants always have a value");
        };
        for &input in &self.graph.node(producer).inputs {
            self.ensure(input);
        }
        self.emit(producer, true);
    }

    fn emit(&mut self, node: NodeId, recomputed: bool) {
        let read = &self.graph.node(node).inputs;
        let inputs = read.iter().map(|i| self.current[i.0 as usize].expect("value present")).collect();
        let outputs = self.graph.node(node).outputs.clone().into_iter().map(|o| self.fresh(o)).collect();
        self.schedule.steps.push(Step { node, inputs, outputs, recomputed });
    }
}
