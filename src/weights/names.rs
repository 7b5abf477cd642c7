//! Tensor names: removes the prefixes that training programs put around a bare state dict.

use super::file_tensor::FileTensor;
use std::collections::{BTreeMap, BTreeSet};

/// Limit on the number of names; LONGEST_NAME and MOST_BYTES limit their length. No network exceeds
/// them.
pub(super) const MOST_NAMES: usize = 1 << 15;
pub(super) const LONGEST_NAME: usize = 512;
const MOST_BYTES: usize = 8 << 20;
/// Maximum number of prefixes that are removed one after the other; real files have up to four.
const MOST_PREFIXES: usize = 16;

type Tensors = BTreeMap<String, FileTensor>;

/// Prefixes of averaged weights. They win over plain ones if a file holds the same network twice.
const AVERAGED: [&str; 5] = ["ema.", "ema_model.", "model_ema.", "ema_params.", "params_ema."];
const PLAIN: [&str; 15] = [
    "state_dict.",
    "model_state_dict.",
    "model.",
    "online_model.",
    "module.",
    "text_model.",
    "_orig_mod.",
    "unet.",
    "diffusion_model.",
    "net.",
    "network.",
    "generator.",
    "denoiser.",
    "denoise_fn.",
    "params.",
];

/// Buffers that training programs store beside the weights: counters of averaging, and tables of
/// the noise schedule, which the configuration is compared with.
const BOOKKEEPING: [&str; 24] = [
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "decay",
    "ema_decay",
    "epoch",
    "global_step",
    "initted",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "loss_weight",
    "n_averaged",
    "num_updates",
    "p2_loss_weight",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "sqrt_1m_alphas_cumprod",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "step",
];

/// Refuses names beyond any network's, which bounds the work on names.
pub(super) fn check(tensors: &Tensors) -> Result<(), String> {
    if tensors.len() > MOST_NAMES {
        return Err(format!("it holds {} tensors, more than any network has", tensors.len()));
    }
    let bytes: usize = tensors.keys().map(|name| name.len()).sum();
    if tensors.keys().any(|name| name.len() > LONGEST_NAME) || bytes > MOST_BYTES {
        return Err(format!("its names of tensors take {bytes} bytes, more than any network's"));
    }
    Ok(())
}

/// Removes prefixes that all weights share, one after the other, and separates bookkeeping. Returns
/// (weights, bookkeeping).
pub(super) fn clean(mut tensors: Tensors) -> (Tensors, Tensors) {
    let mut bookkeeping = Tensors::new();
    for _ in 0..MOST_PREFIXES {
        let is_weight = |name: &str, t: &FileTensor| !(BOOKKEEPING.contains(&name) && t.shape.len() <= 1);
        let (weights, apart) = tensors.into_iter().partition(|(name, tensor)| is_weight(name, tensor));
        tensors = weights;
        bookkeeping.extend::<Tensors>(apart);
        drop_plain_twin(&mut tensors);
        let shared = AVERAGED.iter().chain(&PLAIN).find(|p| is_shared(&tensors, p));
        let Some(prefix) = shared else { break };
        let strip = |name: String| name.strip_prefix(prefix).map_or(name.clone(), str::to_string);
        tensors = tensors.into_iter().map(|(name, tensor)| (strip(name), tensor)).collect();
    }
    (rename_old_attention(tensors), bookkeeping)
}

/// True if every weight has the prefix. A buffer at the top level (no dot in its name, at most one
/// extent) does not count as a weight.
fn is_shared(tensors: &Tensors, prefix: &str) -> bool {
    let is_buffer = |name: &str, tensor: &FileTensor| !name.contains('.') && tensor.shape.len() <= 1;
    let is_in_the_way = |(name, tensor): (&String, &FileTensor)| match name.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || tensors.contains_key(rest),
        None => !is_buffer(name, tensor),
    };
    tensors.keys().any(|name| name.starts_with(prefix)) && !tensors.iter().any(is_in_the_way)
}

/// Drops the plain weights of a network if averaged weights with the same names exist.
fn drop_plain_twin(tensors: &mut Tensors) {
    let under = |prefix: &str| -> BTreeSet<&str> { tensors.keys().filter_map(|n| n.strip_prefix(prefix)).collect() };
    let averaged = AVERAGED.iter().map(|p| under(p)).find(|names| !names.is_empty());
    let Some(averaged) = averaged else { return };
    let twin = PLAIN.into_iter().find(|plain| under(plain) == averaged);
    if let Some(plain) = twin {
        tensors.retain(|name, _| !name.starts_with(plain));
    }
}

/// Renames the attention layers of old autoencoder files to their current names.
fn rename_old_attention(tensors: Tensors) -> Tensors {
    const NAMES: [(&str, &str); 4] =
        [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    if !tensors.keys().any(|name| name.contains(".mid_block.attentions.0.query.")) {
        return tensors;
    }
    let rename = |name: String| NAMES.iter().fold(name, |n, (old, new)| n.replace(old, new));
    tensors.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect()
}
