//! The configuration of an ADM UNet in JSON, with this program's keys or the flag names of
//! guided-diffusion.
//!
//! Most settings follow from the shapes of the tensors: a key that contradicts the shapes is an
//! error. Heads, attention order, schedule and groups of the norms do not follow from the shapes,
//! so the JSON sets them.

use super::adm_config::AdmConfig;
use super::adm_config::{Assumption, BLOCKS, CHANNELS, CLASSES, IMAGE_CHANNELS, STEPS};
use super::training_schedule::NoiseSchedule;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Keys that are read.
const READ: [&str; 23] = [
    "attention_ds",
    "attention_resolutions",
    "channel_mult",
    "class_cond",
    "conv_resample",
    "diffusion_steps",
    "image_size",
    "in_channels",
    "learn_sigma",
    "model_channels",
    "noise_schedule",
    "norm_groups",
    "num_channels",
    "num_classes",
    "num_head_channels",
    "num_heads",
    "num_res_blocks",
    "out_channels",
    "resblock_updown",
    "rescale_timesteps",
    "steps",
    "use_new_attention_order",
    "use_scale_shift_norm",
];

/// Keys that would change the network or what it predicts, and the only supported value.
const FIXED: [(&str, &str); 6] = [
    ("dims", "2"),
    ("model_mean_type", "epsilon"),
    ("num_heads_upsample", "-1"),
    ("pixel_range", "[-1,1]"),
    ("predict_xstart", "false"),
    ("predicts", "epsilon"),
];

/// Keys of an upsampler.
const UPSAMPLER: [&str; 2] = ["large_size", "small_size"];

/// Keys that are ignored, because none changes the output of the network. They are about training
/// (loss, dropout, precision, memory, data) and about sampling, for which this program has its own
/// flags.
const IGNORED: [&str; 39] = [
    "anneal_lr",
    "architecture",
    "base_samples",
    "batch_size",
    "clip_denoised",
    "data_dir",
    "dropout",
    "dynamic_threshold",
    "ema_rate",
    "fp16_scale_growth",
    "iterations",
    "log_interval",
    "lr",
    "lr_anneal_steps",
    "microbatch",
    "model_path",
    "model_var_type",
    "name",
    "num_samples",
    "rescale_learned_sigmas",
    "resume_checkpoint",
    "sampler",
    "save_interval",
    "schedule_sampler",
    "seed",
    "sigma_small",
    "timestep_respacing",
    "trained_crop",
    "trained_steps",
    "use_checkpoint",
    "use_ddim",
    "use_fp16",
    "use_kl",
    "weight_decay",
    "classifier_path",
    "classifier_scale",
    "classifier_use_fp16",
    "classifier_width",
    "classifier_depth",
];

/// Applies a JSON text to `config`, and removes the settings that it gives from `assumed`. `shapes`
/// is the configuration that follows from the tensors. Fails on a key that is unknown, unsupported
/// or contradicts `shapes`.
pub(super) fn apply(
    text: &str,
    shapes: &AdmConfig,
    config: &mut AdmConfig,
    assumed: &mut Vec<Assumption>,
) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
    let given = Given(value.as_object().ok_or("it is not a JSON object")?);
    given.check_keys()?;
    given.check_shapes(shapes)?;
    if given.heads(config)? {
        assumed.retain(|a| *a != Assumption::Heads);
    }
    if let Some(new) = given.flag("use_new_attention_order")? {
        config.use_new_attention_order = new;
        assumed.retain(|a| *a != Assumption::Order);
    }
    if let Some(schedule) = given.schedule()? {
        config.noise_schedule = schedule;
        assumed.retain(|a| *a != Assumption::Schedule);
    }
    for key in ["steps", "diffusion_steps"] {
        if let Some(steps) = given.count(key, STEPS)? {
            config.diffusion_steps = steps;
            assumed.retain(|a| *a != Assumption::Steps);
        }
    }
    if let Some(rescale) = given.flag("rescale_timesteps")? {
        config.rescale_timesteps = rescale;
        assumed.retain(|a| *a != Assumption::Rescaling);
    }
    if let Some(groups) = given.count("norm_groups", CHANNELS)? {
        config.norm_groups = groups;
    }
    Ok(())
}

/// The keys of a configuration. Values may be strings, as in a dump of command-line flags; null
/// counts as not given.
struct Given<'a>(&'a Map<String, Value>);

impl Given<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn wrong<T>(&self, key: &str, expected: &str) -> Result<T, String> {
        Err(format!("{key} is {}, expected {expected}", self.0[key]))
    }

    fn whole(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match number(value).filter(|n| n.fract() == 0.0 && (*range.start() as f64..=*range.end() as f64).contains(n)) {
            Some(n) => Ok(Some(n as i64)),
            None => self.wrong(key, &format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }

    fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, String> {
        let found = self.whole(key, *range.start() as i64..=*range.end() as i64)?;
        Ok(found.map(|n| n as usize))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match plain(value).as_str() {
            "true" | "yes" | "t" | "y" | "1" => Ok(Some(true)),
            "false" | "no" | "f" | "n" | "0" => Ok(Some(false)),
            _ => self.wrong(key, "true or false"),
        }
    }

    /// Numbers from an array, from a text with commas, or from one number. An empty text gives an
    /// empty list.
    fn list(&self, key: &str) -> Result<Option<Vec<f64>>, String> {
        let numbers = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values.iter().map(number).collect(),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
            Some(Value::String(text)) => text.split(',').map(|part| part.trim().parse().ok()).collect(),
            Some(value) => number(value).map(|n| vec![n]),
        };
        numbers.map_or_else(|| self.wrong(key, "numbers, as in [1, 2, 4] or \"1,2,4\""), |n: Vec<f64>| Ok(Some(n)))
    }

    /// Refuses keys that are unknown or ask for another network.
    fn check_keys(&self) -> Result<(), String> {
        for (key, value) in self.0 {
            if UPSAMPLER.contains(&&key[..]) {
                return Err(format!("{key} is for an upsampler, which takes a second image: that is not supported"));
            }
            if let Some((_, only)) = FIXED.iter().find(|(fixed, _)| fixed == key) {
                if !value.is_null() && plain(value) != *only {
                    return Err(format!("{key} is {value}; only {only} is supported"));
                }
            } else if !READ.contains(&&key[..]) && !IGNORED.contains(&&key[..]) {
                let known = READ.iter().chain(&IGNORED).chain(&UPSAMPLER).chain(FIXED.iter().map(|(fixed, _)| fixed));
                let likeness = |k: &&&str| (1000.0 * strsim::jaro_winkler(key, k)) as usize;
                return Err(match known.max_by_key(likeness).filter(|k| likeness(k) > 850) {
                    Some(near) => format!("unknown key {key}; did you mean {near}?"),
                    None => format!("unknown key {key}; the keys are those of guided-diffusion's flags"),
                });
            }
        }
        Ok(())
    }

    /// Fails if a key contradicts the shapes of the tensors.
    fn check_shapes(&self, shapes: &AdmConfig) -> Result<(), String> {
        let levels = shapes.channel_mult.len();
        let differs = |key: &str, told: &dyn std::fmt::Display| {
            Err(format!("{key} is {}, but the shapes of the tensors say {told}", self.0[key]))
        };
        for (key, range, told) in [
            ("model_channels", CHANNELS, shapes.model_channels),
            ("num_channels", CHANNELS, shapes.model_channels),
            ("num_res_blocks", BLOCKS, shapes.num_res_blocks),
            ("in_channels", IMAGE_CHANNELS, shapes.in_channels),
            ("out_channels", IMAGE_CHANNELS, shapes.out_channels()),
        ] {
            if self.count(key, range)?.is_some_and(|n| n != told) {
                return differs(key, &told);
            }
        }
        // The number of classes has no meaning without classes. The change of resolution has none
        // with a single level.
        if self.count("num_classes", CLASSES)?.is_some_and(|n| shapes.class_cond && n != shapes.num_classes) {
            return differs("num_classes", &shapes.num_classes);
        }
        for (key, told, is_told) in [
            ("use_scale_shift_norm", shapes.use_scale_shift_norm, true),
            ("learn_sigma", shapes.learn_sigma, true),
            ("class_cond", shapes.class_cond, true),
            ("resblock_updown", shapes.resblock_updown, levels > 1),
            ("conv_resample", shapes.conv_resample, levels > 1 && !shapes.resblock_updown),
        ] {
            if self.flag(key)?.is_some_and(|found| is_told && found != told) {
                return differs(key, &told);
            }
        }
        let size = self.count("image_size", 1..=1 << 16)?;
        if let Some(size) = size.filter(|s| s % shapes.size_multiple() != 0) {
            let multiple = shapes.size_multiple();
            return Err(format!("image_size is {size}, but the shapes of the tensors say a multiple of {multiple}"));
        }
        let multipliers = match (self.list("channel_mult")?, size) {
            (None, Some(size)) if self.get("channel_mult").is_some() => multipliers_of(size),
            (given, _) => given,
        };
        if multipliers.is_some_and(|m| m != shapes.channel_mult) {
            let told: Vec<String> = shapes.channel_mult.iter().map(|m| m.to_string()).collect();
            return differs("channel_mult", &format!("[{}]", told.join(", ")));
        }
        self.check_attention(shapes, size)
    }

    /// Checks the levels with attention, which keys give as down-sampling factors or as resolutions
    /// of an image of `size` pixels.
    fn check_attention(&self, shapes: &AdmConfig, size: Option<usize>) -> Result<(), String> {
        let mut told = shapes.attention_ds.clone();
        told.sort();
        for key in ["attention_ds", "attention_resolutions"] {
            let Some(given) = self.list(key)? else { continue };
            if let Some(wrong) = given.iter().find(|n| n.fract() != 0.0 || !(1.0..=65536.0).contains(*n)) {
                return Err(format!("{key} holds {wrong}, expected whole numbers from 1 to 65536"));
            }
            let factors = given.iter().map(|&n| n as usize);
            let factors: Vec<usize> = match (key, size) {
                ("attention_ds", _) => factors.collect(),
                (_, Some(size)) => factors.map(|resolution| size / resolution).collect(),
                (_, None) => return Err(format!("{key} means nothing without image_size: give both, or attention_ds")),
            };
            // A factor that belongs to no level is ignored.
            let of_levels = (0..shapes.channel_mult.len()).map(|level| 1 << level);
            let of_levels: Vec<usize> = of_levels.filter(|ds| factors.contains(ds)).collect();
            if of_levels != told {
                let value = &self.0[key];
                return Err(format!(
                    "{key} is {value}, attention at the down-sampling factors {of_levels:?}, but the shapes of the \
                     tensors say {told:?}"
                ));
            }
        }
        Ok(())
    }

    /// Sets the heads by guided-diffusion's rule: channels per head take precedence over the number
    /// of heads, unless they are -1. False if the text gives neither.
    fn heads(&self, config: &mut AdmConfig) -> Result<bool, String> {
        let per_head = self.whole("num_head_channels", -1..=*CHANNELS.end() as i64)?;
        let heads = self.count("num_heads", CHANNELS)?;
        if let Some(heads) = heads {
            config.num_heads = heads;
        }
        match (per_head, heads) {
            (Some(channels), _) if channels > 0 => config.num_head_channels = channels as usize,
            (Some(_), _) | (None, Some(_)) => config.num_head_channels = 0,
            (None, None) => return Ok(false),
        }
        Ok(config.num_head_channels > 0 || heads.is_some())
    }

    fn schedule(&self) -> Result<Option<NoiseSchedule>, String> {
        let Some(value) = self.get("noise_schedule") else { return Ok(None) };
        match NoiseSchedule::of_name(&plain(value)) {
            None => self.wrong("noise_schedule", "linear, cosine or scaled_linear"),
            known => Ok(known),
        }
    }
}

/// The channel multipliers that guided-diffusion takes by default for an image size.
fn multipliers_of(size: usize) -> Option<Vec<f64>> {
    match size {
        512 => Some(vec![0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        256 => Some(vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        128 => Some(vec![1.0, 1.0, 2.0, 3.0, 4.0]),
        64 => Some(vec![1.0, 2.0, 3.0, 4.0]),
        _ => None,
    }
}

/// A number, or a text that contains one.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// A value as text in lower case, without quotes and spaces.
fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    text.trim().to_lowercase()
}
