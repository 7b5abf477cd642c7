//! Reading configuration files of diffusers and transformers. Options that change what a network
//! computes and are not supported are refused by name, as are unknown ones; known options without
//! such an effect are ignored.

use super::adm_config::STEPS;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// The kind of value that a key must have.
pub(super) enum Kind {
    /// A whole number in this range, or an array of them.
    Whole(u64, u64),
    /// As `Whole`, or null.
    WholeOrNull(u64, u64),
    /// A number above zero.
    Positive,
    /// True or false.
    Flag,
    /// A text, or an array of them.
    Text,
}

/// The known keys of one kind of file.
pub(super) struct Rules {
    /// Options that change the network, with the only supported value. Every published model of the
    /// family has this value.
    fixed: &'static [(&'static str, &'static str)],
    /// Options that are read.
    read: &'static [(&'static str, Kind)],
    /// Options about training, precision and size, which do not change the output of the network.
    ignored: &'static [&'static str],
}

const CHANNELS: Kind = Kind::Whole(1, 1 << 14);

pub(super) const UNET: Rules = Rules {
    fixed: &[
        ("_class_name", "\"UNet2DConditionModel\""),
        ("act_fn", "\"silu\""),
        ("addition_embed_type", "null"),
        ("attention_type", "\"default\""),
        ("center_input_sample", "false"),
        ("class_embed_type", "null"),
        ("class_embeddings_concat", "false"),
        ("conv_in_kernel", "3"),
        ("conv_out_kernel", "3"),
        ("cross_attention_norm", "null"),
        ("downsample_padding", "1"),
        ("dual_cross_attention", "false"),
        ("encoder_hid_dim", "null"),
        ("encoder_hid_dim_type", "null"),
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
    ],
    read: &[
        ("attention_head_dim", CHANNELS),
        ("block_out_channels", CHANNELS),
        ("cross_attention_dim", CHANNELS),
        ("down_block_types", Kind::Text),
        ("in_channels", Kind::Whole(1, 64)),
        ("layers_per_block", Kind::Whole(1, 16)),
        ("norm_eps", Kind::Positive),
        ("norm_num_groups", CHANNELS),
        ("out_channels", Kind::Whole(1, 64)),
        ("sample_size", Kind::WholeOrNull(1, 1 << 16)),
        ("up_block_types", Kind::Text),
    ],
    // Whether projections are linear follows from the shapes of the tensors. The key about heads
    // belongs to an embedding type that is refused.
    ignored: &["addition_embed_type_num_heads", "dropout", "upcast_attention", "use_linear_projection"],
};

/// `ControlNetModel`: the options of the UNet's encoder half, and those of the condition image.
pub(super) const CONTROLNET: Rules = Rules {
    fixed: &[
        ("_class_name", "\"ControlNetModel\""),
        ("act_fn", "\"silu\""),
        ("addition_embed_type", "null"),
        ("addition_time_embed_dim", "null"),
        ("class_embed_type", "null"),
        ("controlnet_conditioning_channel_order", "\"rgb\""),
        ("downsample_padding", "1"),
        ("encoder_hid_dim", "null"),
        ("encoder_hid_dim_type", "null"),
        ("flip_sin_to_cos", "true"),
        ("freq_shift", "0"),
        ("global_pool_conditions", "false"),
        ("mid_block_scale_factor", "1"),
        ("mid_block_type", "\"UNetMidBlock2DCrossAttn\""),
        ("num_attention_heads", "null"),
        ("num_class_embeds", "null"),
        ("only_cross_attention", "false"),
        ("projection_class_embeddings_input_dim", "null"),
        ("resnet_time_scale_shift", "\"default\""),
        ("transformer_layers_per_block", "1"),
    ],
    read: &[
        ("attention_head_dim", CHANNELS),
        ("block_out_channels", CHANNELS),
        ("conditioning_channels", Kind::Whole(1, 64)),
        ("conditioning_embedding_out_channels", CHANNELS),
        ("cross_attention_dim", CHANNELS),
        ("down_block_types", Kind::Text),
        ("in_channels", Kind::Whole(1, 64)),
        ("layers_per_block", Kind::Whole(1, 16)),
        ("norm_eps", Kind::Positive),
        ("norm_num_groups", CHANNELS),
    ],
    ignored: &["addition_embed_type_num_heads", "upcast_attention", "use_linear_projection"],
};

pub(super) const VAE: Rules = Rules {
    fixed: &[
        ("_class_name", "\"AutoencoderKL\""),
        ("act_fn", "\"silu\""),
        ("in_channels", "3"),
        ("latents_mean", "null"),
        ("latents_std", "null"),
        ("out_channels", "3"),
        ("shift_factor", "null"),
    ],
    read: &[
        ("block_out_channels", CHANNELS),
        ("latent_channels", Kind::Whole(1, 64)),
        ("layers_per_block", Kind::Whole(1, 16)),
        ("mid_block_add_attention", Kind::Flag),
        ("norm_num_groups", CHANNELS),
        ("scaling_factor", Kind::Positive),
        ("use_post_quant_conv", Kind::Flag),
        ("use_quant_conv", Kind::Flag),
    ],
    // The types of the blocks follow from the tensors.
    ignored: &["down_block_types", "force_upcast", "sample_size", "up_block_types"],
};

pub(super) const TEXT: Rules = Rules {
    fixed: &[
        ("_class_name", "\"CLIPTextModel\""),
        ("architectures", "[\"CLIPTextModel\"]"),
        ("model_type", "\"clip_text_model\""),
    ],
    read: &[
        ("hidden_act", Kind::Text),
        ("hidden_size", CHANNELS),
        ("intermediate_size", Kind::Whole(1, 1 << 17)),
        ("layer_norm_eps", Kind::Positive),
        ("max_position_embeddings", Kind::Whole(2, 1 << 16)),
        ("num_attention_heads", CHANNELS),
        ("num_hidden_layers", Kind::Whole(1, 256)),
        ("vocab_size", Kind::Whole(2, 1 << 20)),
    ],
    // Published files have wrong token numbers here: they are read from the vocabulary instead.
    ignored: &[
        "attention_dropout",
        "bos_token_id",
        "dropout",
        "dtype",
        "eos_token_id",
        "initializer_factor",
        "initializer_range",
        "pad_token_id",
        "projection_dim",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ],
};

pub(super) const SCHEDULER: Rules = Rules {
    fixed: &[
        ("rescale_betas_zero_snr", "false"),
        ("timestep_type", "\"discrete\""),
        ("trained_betas", "null"),
        ("use_flow_sigmas", "false"),
    ],
    read: &[
        ("_class_name", Kind::Text),
        ("beta_end", Kind::Positive),
        ("beta_schedule", Kind::Text),
        ("beta_start", Kind::Positive),
        ("num_train_timesteps", Kind::Whole(*STEPS.start() as u64, *STEPS.end() as u64)),
        ("prediction_type", Kind::Text),
    ],
    // Stepping, spacing and clipping of diffusers' samplers: this program has its own samplers and
    // flags.
    ignored: &[
        "algorithm_type",
        "clip_sample",
        "clip_sample_range",
        "disable_corrector",
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "final_sigmas_type",
        "flow_shift",
        "interpolation_type",
        "lambda_min_clipped",
        "lower_order_final",
        "predict_x0",
        "sample_max_value",
        "set_alpha_to_one",
        "sigma_max",
        "sigma_min",
        "skip_prk_steps",
        "solver_order",
        "solver_p",
        "solver_type",
        "steps_offset",
        "thresholding",
        "time_shift_type",
        "timestep_spacing",
        "use_beta_sigmas",
        "use_dynamic_shifting",
        "use_exponential_sigmas",
        "use_karras_sigmas",
        "use_lu_lambdas",
        "variance_type",
    ],
};

/// An error about a configuration file.
pub(super) fn refuse(path: &Path, reason: String) -> Error {
    Error::Weights { path: path.into(), reason }
}

/// The text of a configuration file.
pub(super) fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io(path))
}

/// The class that a file of diffusers names, if there is such a file and it names one.
pub(super) fn class_name(path: &Path) -> Option<String> {
    let value: Value = serde_json::from_str(&text(path).ok()?).ok()?;
    Some(value.get("_class_name")?.as_str()?.to_string())
}

/// Parses the text of a file as a JSON object.
fn object(path: &Path, text: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).map_err(|e| refuse(path, format!("it is not JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(refuse(path, "it is not a JSON object".into())) }
}

/// Parses the text of a file as a JSON object and checks its options against the rules.
pub(super) fn checked(path: &Path, text: &str, rules: &Rules) -> Result<Value> {
    let value = object(path, text)?;
    let same = |found: &Value, expected: &str| match (found.as_f64(), expected.parse::<f64>()) {
        (Some(a), Ok(b)) => a == b,
        _ => serde_json::from_str::<Value>(expected).is_ok_and(|e| e == *found),
    };
    for (key, expected) in rules.fixed {
        if value.get(key).is_some_and(|found| !same(found, expected)) {
            return Err(refuse(path, format!("{key} is {}; only {expected} is supported", value[key])));
        }
    }
    for (key, kind) in rules.read {
        if let Some(expected) = value.get(key).and_then(|found| kind.expected(found)) {
            return Err(refuse(path, format!("{key} is {}, expected {expected}", value[key])));
        }
    }
    if let Some((key, set)) = unknown_key(&value, rules) {
        let reason =
            format!("{key} is {set}, an option that is not known; remove it if the network is the same without it");
        return Err(refuse(path, reason));
    }
    Ok(value)
}

impl Kind {
    /// Description of the expected value, if `value` is of another kind.
    fn expected(&self, value: &Value) -> Option<String> {
        let all = |test: &dyn Fn(&Value) -> bool| match value {
            Value::Array(values) => values.iter().all(test),
            value => test(value),
        };
        let whole = |from: u64, to: u64| all(&|v| v.as_u64().is_some_and(|n| (from..=to).contains(&n)));
        match *self {
            Kind::WholeOrNull(..) if value.is_null() => None,
            Kind::Whole(from, to) | Kind::WholeOrNull(from, to) => {
                (!whole(from, to)).then(|| format!("a whole number from {from} to {to}"))
            }
            Kind::Positive => (!value.as_f64().is_some_and(|n| n > 0.0)).then(|| "a number above 0".into()),
            Kind::Flag => (!value.is_boolean()).then(|| "true or false".into()),
            Kind::Text => (!all(&|v| v.is_string())).then(|| "a text".into()),
        }
    }
}

/// The first set key that the rules do not know. It may ask for another network.
fn unknown_key<'a>(value: &'a Value, rules: &Rules) -> Option<(&'a String, &'a Value)> {
    let is_known = |key: &str| {
        let fixed = rules.fixed.iter().map(|f| f.0);
        fixed.chain(rules.read.iter().map(|r| r.0)).chain(rules.ignored.iter().copied()).any(|known| known == key)
    };
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        Value::Bool(true) => true,
    };
    // Keys that start with an underscore name the software that wrote the file.
    let mut keys = value.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with('_'));
    keys.find(|(key, value)| !is_known(key) && is_set(value))
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| refuse(path, format!("it has a wrong value: {e}")))
}
