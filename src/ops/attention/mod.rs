//! Attention: of an image to itself, and of an image to another one or to a text.

mod cpu;
mod cross;
mod launch;
mod products;
mod self_attention;

pub use cross::{CrossAttention, CrossAttentionVjp};
pub use self_attention::{Attention, AttentionVjp, QkvOrder};
