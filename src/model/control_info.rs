//! What a ControlNet says of itself, without the model that it belongs to.

use super::config_file::class_name;
use super::control::ControlConfig;
use super::controlnet::{ControlOrigin, config_of_file, config_of_folder, origin_of};
use crate::error::Result;
use crate::weights::{Checkpoint, open_part};
use std::path::Path;

/// What a ControlNet says of itself.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ControlInfo {
    /// Its settings.
    pub config: ControlConfig,
    /// Channels of the levels of the UNet whose encoder half it copies. None for the ControlNet of a
    /// pixel model, which does not say it.
    pub unet_channels: Option<Vec<usize>>,
    /// What it was trained for, if it says so.
    pub origin: Option<ControlOrigin>,
    /// Number of its parameters.
    pub parameters: usize,
}

impl ControlInfo {
    /// Reads a folder in diffusers layout. None if it holds something else.
    pub fn of_folder(folder: &Path) -> Result<Option<ControlInfo>> {
        if class_name(&folder.join("config.json")).as_deref() != Some("ControlNetModel") {
            return Ok(None);
        }
        let (_, value, config) = config_of_folder(folder)?;
        let levels = value["block_out_channels"].as_array().into_iter().flatten();
        let files = open_part(folder, "diffusion_pytorch_model")?;
        Ok(Some(ControlInfo {
            config,
            unet_channels: Some(levels.filter_map(|c| Some(c.as_u64()? as usize)).collect()),
            origin: origin_of(&files)?,
            parameters: files.iter().map(|f| f.parameters()).sum(),
        }))
    }

    /// Reads the ControlNet of a pixel model. None if the file holds something else.
    pub fn of_file(file: &Checkpoint) -> Result<Option<ControlInfo>> {
        if !file.is_control() {
            return Ok(None);
        }
        Ok(Some(ControlInfo {
            config: config_of_file(file)?,
            unet_channels: None,
            origin: origin_of(std::slice::from_ref(file))?,
            parameters: file.parameters(),
        }))
    }
}
