//! Finds the weights in a pickle's value: a training checkpoint wraps them in dicts.

use super::names::{LONGEST_NAME, MOST_NAMES};
use super::pickle_value::{Dict, PickledTensor, Value};
use std::rc::Rc;

/// Keys of dicts with averaged weights; these win over plain ones.
const AVERAGED: [&str; 7] =
    ["ema", "ema_state_dict", "ema_model", "ema_params", "params_ema", "model_ema", "ema_model_state_dict"];
/// Keys of dicts with plain weights.
const PLAIN: [&str; 4] = ["state_dict", "model_state_dict", "model", "params"];
/// Keys that name a network: such a dict holds the weights only if no other network is beside it.
const NETWORKS: [&str; 7] = ["module", "net", "network", "unet", "generator", "diffusion_model", "denoiser"];
/// Maximum number of values that the search visits. One dict can occur in many places of a pickle.
const MOST_VISITS: usize = 4 * MOST_NAMES;

/// Names and tensors of the weights in `value`.
pub(super) fn weights(value: &Value) -> Result<Vec<(String, Rc<PickledTensor>)>, String> {
    let mut walk = Walk { visits: 0, found: Vec::new() };
    if let Value::Dict(dict) = value {
        walk.unwrap(dict)?;
    }
    match walk.found.is_empty() {
        true => {
            Err("it holds no tensors in dicts: save the state_dict, by torch.save(model.state_dict(), path)".into())
        }
        false => Ok(walk.found),
    }
}

struct Walk {
    visits: usize,
    found: Vec<(String, Rc<PickledTensor>)>,
}

impl Walk {
    /// Collects the weights of a wrapped dict if there is one, else all tensors.
    fn unwrap(&mut self, dict: &Dict) -> Result<(), String> {
        let entries = dict.entries.borrow();
        let mut holders: Vec<(&str, &Dict)> = Vec::new();
        for (key, value) in entries.iter() {
            if let Value::Dict(inner) = value
                && self.holds_weights(inner)?
            {
                holders.push((key, inner));
            }
        }
        let named = |names: &[&str]| names.iter().find_map(|n| holders.iter().find(|h| h.0 == *n));
        let network = named(&NETWORKS).filter(|_| holders.len() == 1);
        match named(&AVERAGED).or_else(|| named(&PLAIN)).or(network) {
            Some((_, inner)) => self.unwrap(inner),
            None => self.collect("", dict),
        }
    }

    fn visit(&mut self) -> Result<(), String> {
        self.visits += 1;
        match self.visits > MOST_VISITS {
            true => Err(format!("its dicts hold more than {MOST_NAMES} names, more than any network has")),
            false => Ok(()),
        }
    }

    /// True if the dict or one of its inner dicts holds a tensor with at least one dimension.
    fn holds_weights(&mut self, dict: &Dict) -> Result<bool, String> {
        for (_, value) in dict.entries.borrow().iter() {
            self.visit()?;
            let found = match value {
                Value::Tensor(tensor) => !tensor.shape.is_empty(),
                Value::Dict(inner) => self.holds_weights(inner)?,
                _ => false,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Collects every tensor. Its name consists of the keys on the path to it, joined by dots.
    fn collect(&mut self, prefix: &str, dict: &Dict) -> Result<(), String> {
        for (key, value) in dict.entries.borrow().iter() {
            self.visit()?;
            let name = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
            if name.len() > LONGEST_NAME {
                return Err(format!("it holds a name of {} bytes, longer than any network's", name.len()));
            }
            match value {
                Value::Tensor(tensor) => self.found.push((name, tensor.clone())),
                Value::Dict(inner) => self.collect(&name, inner)?,
                _ => {}
            }
        }
        Ok(())
    }
}
