//! Recognises unsuitable files: other formats by their first bytes, and other networks by their
//! tensor names.

use super::file_tensor::FileTensor;
use std::collections::BTreeMap;

/// For a file that is neither safetensors nor PyTorch's: the format according to its first bytes,
/// and advice for the user. None if the format is unknown.
pub(super) fn foreign(head: &[u8]) -> Option<&'static str> {
    let starts: [(&[u8], &str); 17] = [
        (
            b"version https://git-lfs",
            "a Git LFS pointer and not the file itself; fetch it by `git lfs pull`, or download it from the web page",
        ),
        (b"GGUF", "a GGUF file; give the safetensors that it was made from"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras); convert it to safetensors"),
        (b"\x1f\x8b", "compressed by gzip; unpack it first"),
        (b"BZh", "compressed by bzip2; unpack it first"),
        (b"\xfd7zXZ\0", "compressed by xz; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
        (b"Rar!", "a RAR archive; unpack it first"),
        (b"\x93NUMPY", "a NumPy array; save the weights as safetensors"),
        (b"\x89PNG", "a picture; give a weight file"),
        (b"\xff\xd8\xff", "a picture; give a weight file"),
        (b"%PDF", "a PDF document; give a weight file"),
        (b"<?xml", "an XML page, as servers send with an error; download the file again"),
        (b"<!doctype html", "a web page (HTML) and not the file itself; download it again, signed in where needed"),
        (b"<html", "a web page (HTML) and not the file itself; download it again, signed in where needed"),
        (b"{", "a JSON text; where it is the index of shards, give the folder of the whole model"),
    ];
    let is_tar = head.get(257..262) == Some(b"ustar");
    // A protocol buffer. Its first fields are the format version and the producer's name.
    let is_onnx = matches!(head, [0x08, 1..=30, 0x12, 1..=60, name, ..] if name.is_ascii_alphabetic());
    let text = head.trim_ascii_start();
    let starts_with = |start: &[u8]| text.get(..start.len()).is_some_and(|t| t.eq_ignore_ascii_case(start));
    match starts.iter().find(|(start, _)| starts_with(start)) {
        Some((_, kind)) => Some(kind),
        None if is_tar => Some(
            "a tar archive; unpack it, or where PyTorch before version 0.2 wrote it, load it there and save it again",
        ),
        None if is_onnx => Some("an ONNX graph; give the weights that it was exported from"),
        None if head.iter().all(|&b| b == 0) => Some("nothing but zeros at its beginning; download it again"),
        None => None,
    }
}

/// The network that has tensors of these names, as a phrase that begins with an article.
pub(super) fn network(tensors: &BTreeMap<String, FileTensor>) -> Option<String> {
    let starts = |prefix: &str| tensors.range(prefix.to_string()..).next().is_some_and(|(n, _)| n.starts_with(prefix));
    let contains = |part: &str| tensors.keys().any(|n| n.contains(part));
    let known = if starts("lora_") || contains(".lora_") || contains("lora_down") || contains("lora_up") {
        "a LoRA (lora_...), a change to the weights of another model; give the model itself"
    } else if starts("controlnet_") || starts("control_model.") || contains("zero_convs.") {
        "a ControlNet, which steers another model: give that model with --model, and this with --cse"
    } else if starts("conditioner.embedders.") {
        "a checkpoint of Stable Diffusion XL in one file (conditioner.embedders...)"
    } else if contains("joint_blocks.") || contains("double_blocks.") || starts("transformer_blocks.") {
        "a diffusion transformer (Stable Diffusion 3, FLUX or DiT); only UNets are read"
    } else if contains("blocks.0.adaLN_modulation.") {
        "a diffusion transformer (DiT); only UNets are read"
    } else if contains("model.diffusion_model.") || starts("first_stage_model.") || starts("cond_stage_model.") {
        "a checkpoint of Stable Diffusion in one file (model.diffusion_model..., first_stage_model...); convert it to a \
         folder in diffusers layout"
    } else if starts("map_layer0.") || starts("map_noise.") || (starts("enc.") && starts("dec.")) {
        "a network of Karras et al. (EDM: map_layer0, enc., dec.)"
    } else if starts("all_modules.") {
        "a network of score_sde (all_modules...)"
    } else if starts("temb.dense.") {
        "a DDPM network in its first layout (temb.dense...)"
    } else if starts("down_blocks.") || starts("up_blocks.") {
        "a UNet in diffusers layout (down_blocks...); give the folder of the whole model"
    } else if starts("encoder.down_blocks.") || starts("decoder.up_blocks.") || starts("decoder.up.") {
        "an autoencoder (VAE) alone; give the folder of the whole model"
    } else if contains("embeddings.token_embedding.") || starts("encoder.block.") || contains("transformer.resblocks.")
    {
        "a text encoder alone; give the folder of the whole model"
    } else if contains(".attn2.to_k.") {
        "a UNet of Stable Diffusion in its first layout; give the folder of the whole model in diffusers layout"
    } else {
        return under_prefix(tensors);
    };
    Some(known.into())
}

/// The prefix in front of an ADM UNet's names, or the parts of a file that holds several networks.
fn under_prefix(tensors: &BTreeMap<String, FileTensor>) -> Option<String> {
    let prefix = tensors.keys().find_map(|n| n.strip_suffix("time_embed.0.weight")).filter(|p| !p.is_empty());
    if let Some(prefix) = prefix {
        return Some(format!("an ADM UNet under the prefix {prefix} beside other tensors; save the network alone"));
    }
    let mut parts: Vec<&str> = tensors.keys().filter_map(|n| n.split_once('.')).map(|n| n.0).collect();
    parts.dedup();
    match parts[..] {
        [one] => Some(format!("a network under the prefix {one}. that is not known")),
        _ => None,
    }
}
