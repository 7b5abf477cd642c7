//! The hand-derived reverse walk.

use super::{Graph, Node, Shape, Source, TensorId};
use crate::error::{Error, Result};
use crate::ops::add::Add;

/// What an op's VJP rule sees: its node, the gradients of its outputs, and which inputs want one.
pub struct Reverse<'a> {
    /// The graph, to which the rule appends its nodes.
    pub graph: &'a mut Graph,
    /// The node that is walked through.
    pub node: Node,
    douts: Vec<Option<TensorId>>,
    wanted: Vec<bool>,
    given: Vec<Option<TensorId>>,
    accumulated: Vec<Option<TensorId>>,
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

/// Appends the vector-Jacobian product: given the gradient `cotangent` of an objective by `from`, the gradient by `to`.
///
/// Only nodes on a path from `to` to `from` are walked, each once, from the last to the first.
/// An op without a rule for a needed input is an error here, never a zero at run time.
pub fn backward(graph: &mut Graph, from: TensorId, cotangent: TensorId, to: TensorId) -> Result<TensorId> {
    if graph.shape(from) != graph.shape(cotangent) {
        return Err(Error::Graph {
            node: graph.tensor(from).name.clone(),
            op: "backward",
            reason: format!("the cotangent has shape {}, not {}", graph.shape(cotangent), graph.shape(from)),
        });
    }
    let recorded = graph.nodes.len();
    let depends = depends_on(graph, to);
    let mut gradient: Vec<Option<TensorId>> = vec![None; graph.tensors.len()];
    gradient[from.0 as usize] = Some(cotangent);
    // What a caller records afterwards reads gradients: it belongs to the reverse pass as well.
    graph.in_reverse = true;
    for index in (0..recorded).rev() {
        let node = graph.nodes[index].clone();
        let douts: Vec<_> = node.outputs.iter().map(|o| gradient[o.0 as usize]).collect();
        let wanted: Vec<_> = node.inputs.iter().map(|i| depends[i.0 as usize]).collect();
        if douts.iter().all(Option::is_none) || !wanted.iter().any(|&w| w) {
            continue;
        }
        let op = node.op.clone();
        let inputs = node.inputs.clone();
        let accumulated = inputs.iter().map(|i| gradient[i.0 as usize]).collect();
        let given = vec![None; inputs.len()];
        let mut reverse = Reverse { graph, node, douts, wanted, given, accumulated };
        op.vjp(&mut reverse)?;
        let Reverse { node, wanted, given, accumulated, .. } = reverse;
        for (slot, &input) in inputs.iter().enumerate() {
            if !wanted[slot] {
                continue;
            }
            let Some(g) = given[slot] else {
                return Err(Error::NotDifferentiable {
                    node: node.name,
                    op: op.name(),
                    input: slot,
                    reason: "its rule gives no gradient for it",
                });
            };
            // An input that is read twice by one node receives both gradients.
            let earlier = if slot_is_repeated(&inputs, slot) { gradient[input.0 as usize] } else { accumulated[slot] };
            gradient[input.0 as usize] = Some(match earlier {
                Some(e) => graph.one(Add { scale: 1.0 }, &format!("{}.vjp.sum", node.name), &[e, g])?,
                None => g,
            });
        }
    }
    gradient[to.0 as usize].ok_or_else(|| Error::Graph {
        node: graph.tensor(from).name.clone(),
        op: "backward",
        reason: format!("it does not depend on {}", graph.tensor(to).name),
    })
}

/// Appends the adjoint of a linear map from `to` to `from`, applied to `y`: the same nodes as [`backward`] appends, as part of the forward
/// pass, so that a gradient can go through them.
pub fn adjoint(graph: &mut Graph, from: TensorId, y: TensorId, to: TensorId) -> Result<TensorId> {
    let (recorded, in_reverse) = (graph.nodes.len(), graph.in_reverse);
    let result = backward(graph, from, y, to);
    graph.in_reverse = in_reverse;
    graph.nodes[recorded..].iter_mut().for_each(|n| n.reverse = in_reverse);
    result
}

fn slot_is_repeated(inputs: &[TensorId], slot: usize) -> bool {
    inputs.iter().filter(|&&i| i == inputs[slot]).count() > 1
}

fn depends_on(graph: &Graph, to: TensorId) -> Vec<bool> {
    let mut depends = vec![false; graph.tensors.len()];
    depends[to.0 as usize] = true;
    for (i, tensor) in graph.tensors.iter().enumerate() {
        if let Source::Node(n) = tensor.source {
            depends[i] |= graph.node(n).inputs.iter().any(|x| depends[x.0 as usize]);
        }
    }
    depends
}
