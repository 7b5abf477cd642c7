//! Attention within an image, and from an image to another tensor or a text.

mod cpu;
mod cross;
mod launch;
mod products;
mod self_attention;

pub use cross::{CrossAttention, CrossAttentionVjp};
pub use self_attention::{Attention, AttentionVjp, QkvOrder};
