//! The values of a ControlNet's weights before training.

use crate::error::Result;
use crate::model::Network;
use crate::noise::{Draw, NoiseKey, Stream};
use crate::tensor::{Shape, WeightPart};
use crate::weights::Weights;

/// The weight of the UNet that a trained weight is a copy of; none for those that a ControlNet adds.
pub(super) fn copied_from(network: &dyn Network, name: &str) -> Option<String> {
    let own = name.strip_prefix("controlnet.").filter(|own| !own.starts_with("controlnet_"))?;
    let prefix = if network.prior().latent.is_some() { "unet." } else { "" };
    Some(format!("{prefix}{own}"))
}

/// The first values of a trained weight: those of the UNet's encoder half for its copy; zeros for the
/// zero convolutions, so that training starts with the UNet; and for the embedding of the condition
/// image uniform numbers up to 1 / sqrt(inputs), as PyTorch draws them. `parts` are all weights.
pub(super) fn initial(
    network: &dyn Network,
    weights: &Weights,
    part: &WeightPart,
    parts: &[WeightPart],
    seed: u64,
) -> Result<Vec<f32>> {
    if let Some(name) = copied_from(network, &part.name) {
        return Ok(weights.get(&name, part.shape)?.to_vec());
    }
    let added = part.name.strip_prefix("controlnet.controlnet_").unwrap_or(&part.name);
    if !added.starts_with("cond_embedding.") || added.starts_with("cond_embedding.conv_out.") {
        return Ok(vec![0.0; part.shape.numel()]);
    }
    // A bias is drawn within the range of its weight.
    let weight = part.name.strip_suffix(".bias").map(|stem| format!("{stem}.weight"));
    let shape = weight.and_then(|w| parts.iter().find(|p| p.name == w)).map_or(part.shape, |p| p.shape);
    let Shape { h, w, c, .. } = shape;
    let limit = ((h * w * c) as f64).sqrt().recip();
    let index = parts.iter().position(|p| p.name == part.name).unwrap_or_default();
    let mut random = Stream::new(NoiseKey { seed, image: index as u32, step: 0, draw: Draw::Start });
    Ok((0..part.shape.numel()).map(|_| (limit * (2.0 * random.uniform() - 1.0)) as f32).collect())
}
