//! Reading configuration files of diffusers: options that change what a network computes and are not supported are refused by name, the
//! others are ignored.

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// What an unsupported option has to be for the supported network: the value of every published model of the family.
pub(super) const UNET_FIXED: &[(&str, &str)] = &[
    ("act_fn", "\"silu\""),
    ("addition_embed_type", "null"),
    ("attention_type", "\"default\""),
    ("center_input_sample", "false"),
    ("class_embed_type", "null"),
    ("conv_in_kernel", "3"),
    ("conv_out_kernel", "3"),
    ("cross_attention_norm", "null"),
    ("downsample_padding", "1"),
    ("dual_cross_attention", "false"),
    ("encoder_hid_dim", "null"),
    ("flip_sin_to_cos", "true"),
    ("freq_shift", "0"),
    ("mid_block_scale_factor", "1"),
    ("mid_block_type", "\"UNetMidBlock2DCrossAttn\""),
    ("num_attention_heads", "null"),
    ("num_class_embeds", "null"),
    ("only_cross_attention", "false"),
    ("resnet_skip_time_act", "false"),
    ("resnet_out_scale_factor", "1"),
    ("resnet_time_scale_shift", "\"default\""),
    ("time_cond_proj_dim", "null"),
    ("time_embedding_act_fn", "null"),
    ("time_embedding_dim", "null"),
    ("time_embedding_type", "\"positional\""),
    ("timestep_post_act", "null"),
    ("transformer_layers_per_block", "1"),
];

pub(super) const VAE_FIXED: &[(&str, &str)] =
    &[("act_fn", "\"silu\""), ("in_channels", "3"), ("latents_mean", "null"), ("shift_factor", "null")];

pub(super) const SCHEDULER_FIXED: &[(&str, &str)] =
    &[("rescale_betas_zero_snr", "false"), ("trained_betas", "null"), ("beta_schedule", "\"scaled_linear\"")];

/// An error about a configuration file.
pub(super) fn refuse(path: &Path, reason: String) -> Error {
    Error::Weights { path: path.into(), reason }
}

/// The text of a configuration file.
pub(super) fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io(path))
}

/// A JSON object out of the text of a file, its options checked against those that are supported.
pub(super) fn checked(path: &Path, text: &str, fixed: &[(&str, &str)]) -> Result<Value> {
    let value: Value = serde_json::from_str(text).map_err(|e| refuse(path, format!("it is not JSON: {e}")))?;
    if !value.is_object() {
        return Err(refuse(path, "it is not a JSON object".into()));
    }
    let same = |found: &Value, expected: &str| match (found.as_f64(), expected.parse::<f64>()) {
        (Some(a), Ok(b)) => a == b,
        _ => serde_json::from_str::<Value>(expected).is_ok_and(|e| e == *found),
    };
    match fixed.iter().find(|(key, expected)| value.get(key).is_some_and(|found| !same(found, expected))) {
        Some((key, expected)) => Err(refuse(path, format!("{key} is {}; only {expected} is supported", value[key]))),
        None => Ok(value),
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| refuse(path, format!("it has a wrong value: {e}")))
}
