//! Appends the reverse pass to a graph.

use super::record::{Graph, Reverse, Source, TensorId};
use crate::error::{Error, Result};
use crate::ops::add::Add;

/// A tensor whose gradient is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The tensor.
    pub tensor: TensorId,
    /// A gradient that its own is added to.
    pub addend: Option<TensorId>,
}

/// Appends the vector-Jacobian product. `cotangent` is the gradient of an objective with respect to
/// `from`; the result is the gradient with respect to `to`.
///
/// Only nodes on a path from `to` to `from` are visited, each once, from the last to the first. An
/// op without a rule for a needed input is an error here and never a zero at run time. So is a
/// `from` that does not depend on `to`, or a cotangent of another shape than `from`.
pub fn backward(graph: &mut Graph, from: TensorId, cotangent: TensorId, to: TensorId) -> Result<TensorId> {
    Ok(gradients(graph, from, cotangent, &[Target { tensor: to, addend: None }])?[0])
}

/// As [`backward`] with respect to several tensors, in one walk.
pub fn gradients(graph: &mut Graph, from: TensorId, cotangent: TensorId, targets: &[Target]) -> Result<Vec<TensorId>> {
    if graph.shape(from) != graph.shape(cotangent) {
        return Err(Error::Graph {
            node: graph.tensor(from).name.clone(),
            op: "backward",
            reason: format!("the cotangent has shape {}, not {}", graph.shape(cotangent), graph.shape(from)),
        });
    }
    let recorded = graph.nodes.len();
    let depends = depends_on(graph, targets);
    let mut gradient: Vec<Option<TensorId>> = vec![None; graph.tensors.len()];
    for target in targets {
        gradient[target.tensor.0 as usize] = target.addend;
    }
    gradient[from.0 as usize] = Some(cotangent);
    // Nodes recorded after this call may read gradients, so they belong to the reverse pass as
    // well.
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
            // If one node reads an input twice, the input receives both gradients.
            let earlier = if slot_is_repeated(&inputs, slot) { gradient[input.0 as usize] } else { accumulated[slot] };
            gradient[input.0 as usize] = Some(match earlier {
                Some(e) => graph.one(Add { scale: 1.0 }, &format!("{}.vjp.sum", node.name), &[e, g])?,
                None => g,
            });
        }
    }
    let of_target = |target: &Target| {
        let found = gradient[target.tensor.0 as usize].filter(|&g| Some(g) != target.addend);
        found.ok_or_else(|| Error::Graph {
            node: graph.tensor(from).name.clone(),
            op: "backward",
            reason: format!("it does not depend on {}", graph.tensor(target.tensor).name),
        })
    };
    targets.iter().map(of_target).collect()
}

/// Appends the adjoint of the linear map from `to` to `from`, applied to `y`. The nodes are the
/// same as in [`backward`], but they do not start the reverse pass: recorded in the forward pass,
/// they belong to it, and a gradient can pass through them.
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

fn depends_on(graph: &Graph, targets: &[Target]) -> Vec<bool> {
    let mut depends = vec![false; graph.tensors.len()];
    targets.iter().for_each(|target| depends[target.tensor.0 as usize] = true);
    for (i, tensor) in graph.tensors.iter().enumerate() {
        if let Source::Node(n) = tensor.source {
            depends[i] |= graph.node(n).inputs.iter().any(|x| depends[x.0 as usize]);
        }
    }
    depends
}
