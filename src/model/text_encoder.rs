//! The CLIP text encoder (Radford et al. 2021; `CLIPTextModel`). It maps token numbers to the
//! hidden states that a UNet attends to.

use super::latent_config::TextConfig;
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::add::Add;
use crate::ops::attention::CrossAttention;
use crate::ops::embedding::Embedding;
use crate::ops::pointwise::Gelu;
use crate::tensor::Shape;

/// Hidden states (1, 1, tokens, hidden_size) of the token numbers `tokens` (1, 1, tokens, 1), after
/// the last layer and its norm.
pub fn text_encoder(g: &mut Graph, c: &TextConfig, tokens: TensorId) -> Result<TensorId> {
    let (count, width) = (g.shape(tokens).w, c.hidden_size);
    let name = |part: &str| format!("text_encoder.{part}");
    let table = name("embeddings.token_embedding.weight");
    let table = g.weight(&table, Shape::new(c.vocab_size, 1, 1, width));
    let positions = name("embeddings.position_embedding.weight");
    let positions = g.weight(&positions, Shape::new(c.max_position_embeddings, 1, 1, width));
    let number: Vec<f32> = (0..count).map(|i| i as f32).collect();
    let number = g.constant("positions", Shape::new(1, 1, count, 1), number);
    let words = g.one(Embedding, "text_encoder.words", &[tokens, table])?;
    let places = g.one(Embedding, "text_encoder.places", &[number, positions])?;
    let mut h = g.one(Add { scale: 1.0 }, "text_encoder.embeddings", &[words, places])?;
    for i in 0..c.num_hidden_layers {
        let layer = |part: &str| name(&format!("encoder.layers.{i}.{part}"));
        let u = g.layer_norm(&layer("layer_norm1"), h, c.layer_norm_eps)?;
        let q = g.conv(&layer("self_attn.q_proj"), u, (1, 1), width, None)?;
        let k = g.conv(&layer("self_attn.k_proj"), u, (1, 1), width, None)?;
        let v = g.conv(&layer("self_attn.v_proj"), u, (1, 1), width, None)?;
        let attention = CrossAttention { causal: true, ..CrossAttention::new(c.num_attention_heads) };
        let o = g.one(attention, &layer("self_attn"), &[q, k, v])?;
        h = g.conv(&layer("self_attn.out_proj"), o, (1, 1), width, Some(h))?;
        let u = g.layer_norm(&layer("layer_norm2"), h, c.layer_norm_eps)?;
        let u = g.conv(&layer("mlp.fc1"), u, (1, 1), c.intermediate_size, None)?;
        let u = g.one(Gelu { quick: c.hidden_act == "quick_gelu" }, &layer("mlp.act"), &[u])?;
        h = g.conv(&layer("mlp.fc2"), u, (1, 1), width, Some(h))?;
    }
    g.layer_norm(&name("final_layer_norm"), h, c.layer_norm_eps)
}
