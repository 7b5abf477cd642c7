//! Finds the configuration of an ADM UNet.

use super::adm_config::{AdmConfig, Assumption};
use super::{adm_json, adm_known, adm_shapes, training_schedule};
use crate::error::{Error, Result, shown};
use crate::weights::Checkpoint;

/// The configuration of a file, and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Identified {
    /// The configuration.
    pub config: AdmConfig,
    /// Description of the known model with this configuration and these shapes, if there is one.
    pub recognised: Option<&'static str>,
    /// Warning about settings that had to be assumed, because neither the file, a JSON nor a known
    /// model gives them.
    pub warning: Option<String>,
}

impl AdmConfig {
    /// The configuration of a weight file. It comes from the file's metadata, else from a JSON file
    /// of the same name beside it, else from a known model of the same shapes, else from the shapes
    /// alone. Fails if these contradict each other.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<AdmConfig> {
        Ok(Self::identify(checkpoint)?.config)
    }

    /// As [`AdmConfig::of_checkpoint`], with what is known about the configuration.
    pub fn identify(checkpoint: &Checkpoint) -> Result<Identified> {
        let shapes = Self::of_shapes(checkpoint)?;
        let known = Self::recognised(&shapes);
        let mut assumed = if known.is_some() { Vec::new() } else { Assumption::ALL.to_vec() };
        let mut config = known.as_ref().map_or(&shapes, |k| &k.0).clone();
        let table = training_schedule::of_tables(checkpoint)?;
        if let Some(found) = table {
            (config.noise_schedule, config.diffusion_steps) = found;
            assumed.retain(|a| !matches!(a, Assumption::Schedule | Assumption::Steps));
        }
        let beside = checkpoint.path().with_extension("json");
        let given = match checkpoint.metadata.get("config") {
            Some(text) => Some((text.clone(), "the config of its metadata".to_string())),
            None if beside.is_file() => {
                let text = std::fs::read_to_string(&beside).map_err(Error::io(&beside))?;
                Some((text, shown(&beside)))
            }
            None => None,
        };
        if let Some((text, origin)) = &given {
            adm_json::apply(text, &shapes, &mut config, &mut assumed)
                .map_err(|reason| checkpoint.error(format!("{origin}: {reason}")))?;
        }
        let place = given.map_or_else(|| shown(&beside), |g| g.1);
        let (schedule, steps) = (config.noise_schedule, config.diffusion_steps);
        if let Some((name, count)) = table.filter(|t| *t != (schedule, steps)) {
            return Err(checkpoint.error(format!(
                "{place} says a {schedule} schedule of {steps} steps, but the tables beside the weights are {name} of {count}"
            )));
        }
        config
            .check_groups()
            .map_err(|reason| checkpoint.error(format!("{reason}; {place} can give another value")))?;
        let recognised = known.filter(|k| k.0 == config).map(|k| k.1);
        let warning = Assumption::sentence(&assumed, &config, &place);
        Ok(Identified { config, recognised, warning })
    }

    /// The configuration that follows from the shapes of the tensors. Other settings are as in
    /// guided-diffusion's published models.
    fn of_shapes(checkpoint: &Checkpoint) -> Result<AdmConfig> {
        let shape = |name: &str| checkpoint.tensors.get(name).map(|t| t.shape.as_slice());
        let kind = || checkpoint.kind().map_or_else(String::new, |kind| format!("; it is {kind}"));
        let expected = "time_embed.0.weight and input_blocks.0.0.weight are expected";
        let not_adm = || checkpoint.error(format!("not an ADM UNet: {expected}{}", kind()));
        if checkpoint.is_control() {
            return Err(checkpoint.error(format!("not a model of its own{}", kind())));
        }
        shape("time_embed.0.weight").and(shape("input_blocks.0.0.weight")).ok_or_else(not_adm)?;
        adm_known::refuse_classifier(checkpoint)?;
        let config = adm_shapes::of_shapes(checkpoint)?;
        adm_known::refuse_upsampler(checkpoint, &config)?;
        Ok(config)
    }

    /// Channels of the network's output: eps, then the interpolation of the log variance if the
    /// model learned it.
    pub fn out_channels(&self) -> usize {
        self.in_channels * if self.learn_sigma { 2 } else { 1 }
    }

    /// Height and width of the image must be multiples of this number of pixels.
    pub fn size_multiple(&self) -> usize {
        1 << (self.channel_mult.len() - 1)
    }

    /// Channels of level `i`, where level 0 has the full resolution.
    pub fn channels(&self, i: usize) -> usize {
        (self.channel_mult[i] * self.model_channels as f64).round() as usize
    }

    /// Heads of an attention over `channels`.
    pub fn heads(&self, channels: usize) -> usize {
        channels.checked_div(self.num_head_channels).unwrap_or(self.num_heads)
    }

    /// Fails if the number of groups does not divide the channels of every level.
    fn check_groups(&self) -> Result<(), String> {
        let groups = self.norm_groups;
        let wrong = (0..self.channel_mult.len()).find(|&i| self.channels(i) % groups != 0);
        wrong.map_or(Ok(()), |i| {
            let c = self.channels(i);
            Err(format!("norm_groups: level {i} has {c} channels, which do not divide into {groups} groups"))
        })
    }

    /// Fails if the heads do not divide the channels of a level with attention, or of the middle
    /// block.
    pub(super) fn check_heads(&self) -> Result<(), String> {
        let last = self.channel_mult.len() - 1;
        for i in (0..=last).filter(|i| *i == last || self.attention_ds.contains(&(1 << i))) {
            let (c, each) = (self.channels(i), self.num_head_channels);
            if each > 0 && c % each != 0 {
                return Err(format!(
                    "num_head_channels is {each}, which does not divide the {c} channels of an attention"
                ));
            }
            if c % self.heads(c) != 0 {
                return Err(format!(
                    "num_heads: an attention of {c} channels does not divide into {} heads",
                    self.heads(c)
                ));
            }
        }
        Ok(())
    }
}
