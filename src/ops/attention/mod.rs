//! Attention within an image, and from an image to another tensor or a text.

mod cpu;
mod cross;
mod launch;
mod products;
mod self_attention;

pub use cross::{CrossAttention, CrossAttentionVjp};
pub(super) use launch::FUSED_VARIANTS;
pub(super) use products::VARIANTS;
pub use self_attention::{Attention, AttentionVjp, QkvOrder};
