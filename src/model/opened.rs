//! A network with its weights, and the check that they fit.

use super::network::Network;
use crate::error::Result;
use crate::graph::Graph;
use crate::tensor::Shape;
use crate::weights::{Checkpoint, Weights};
use std::collections::HashSet;
use std::sync::Arc;

/// A diffusion model: a network and its weights. An architecture has no weights and serves for planning.
pub struct Model {
    /// The network.
    pub network: Arc<dyn Network>,
    /// Its weights; [`Weights::none`] for an architecture.
    pub weights: Weights,
    /// Name of the file or architecture, as reports show it.
    pub name: String,
    /// A warning for the user, if the model's configuration is doubtful.
    pub warning: Option<String>,
}

/// The network whose tensors a file should have, and advice if it has others.
pub(crate) struct Expected<'a> {
    pub network: &'a str,
    pub advice: &'a str,
}

/// The network that a configuration beside the file describes.
pub(crate) const CONFIGURED: Expected<'static> =
    Expected { network: "the configured network", advice: "give it the configuration (JSON) that belongs to it" };

/// Checks that the files have exactly the tensors that the graph reads under `prefix`. Missing,
/// unexpected and mis-shaped tensors are errors.
pub(crate) fn check_tensors(g: &Graph, prefix: &str, files: &[Checkpoint], expected: &Expected<'_>) -> Result<()> {
    let Expected { network, advice } = expected;
    let weights: Vec<(&str, Shape)> =
        g.weight_parts().filter_map(|w| Some((w.name.strip_prefix(prefix)?, w.shape))).collect();
    let names: HashSet<&str> = weights.iter().map(|w| w.0).collect();
    let held = |name: &str| files.iter().find(|f| f.tensors.contains_key(name));
    let missing: Vec<&str> = weights.iter().map(|w| w.0).filter(|n| held(n).is_none()).collect();
    let extra: Vec<&str> = (files.iter().flat_map(|f| f.tensors.keys()))
        .map(|n| n.as_str())
        // Old files of text encoders contain a table of the numbers 0 to 76, which is not needed.
        .filter(|n| !n.ends_with("embeddings.position_ids") && !names.contains(n))
        .collect();
    if !missing.is_empty() || !extra.is_empty() {
        let list = |what: &str, names: &[&str]| match names {
            [] => None,
            [first] => Some(format!("1 {what} ({first})")),
            [first, ..] => Some(format!("{} {what} ({first}, ...)", names.len())),
        };
        let parts: Vec<_> = [list("missing", &missing), list("unexpected", &extra)].into_iter().flatten().collect();
        return Err(files[0].error(format!("its tensors are not those of {network}: {}; {advice}", parts.join(", "))));
    }
    for (name, shape) in weights {
        let Some(file) = held(name) else { continue };
        let found = &file.tensors[name].shape;
        if found.iter().product::<usize>() != shape.numel() {
            let reason =
                format!("tensor {name} has shape {found:?}, expected (out, height, width, in) = {shape}; {advice}");
            return Err(file.error(reason));
        }
    }
    Ok(())
}
