//! Finds the weights in what a pickle holds: a training checkpoint wraps them in dicts.

use super::names::{LONGEST_NAME, MOST_NAMES};
use super::pickle_value::{Dict, PickledTensor, Value};
use std::rc::Rc;

/// Dicts of weights that were averaged over the training; they come before plain ones.
const AVERAGED: [&str; 7] =
    ["ema", "ema_state_dict", "ema_model", "ema_params", "params_ema", "model_ema", "ema_model_state_dict"];
/// Dicts of plain weights.
const PLAIN: [&str; 4] = ["state_dict", "model_state_dict", "model", "params"];
/// Names of networks: a dict of weights only where no other network stands beside it.
const NETWORKS: [&str; 7] = ["module", "net", "network", "unet", "generator", "diffusion_model", "denoiser"];
/// Values that may be looked at, since a pickle can hold one dict in many places.
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
    /// Takes the wrapped dict where there is one, else everything.
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

    /// True if a tensor that is more than one number lies somewhere inside.
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

    /// Every tensor, its name the keys on the way joined by dots.
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
