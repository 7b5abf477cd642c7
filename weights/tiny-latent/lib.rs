//! The small latent prior of `dmap`, as bytes, in diffusers layout. README.md says what it is and how it was trained.

/// Its files: (path inside this package, content).
pub const FILES: &[(&str, &[u8])] = &[
    ("unet/config.json", include_bytes!("unet/config.json")),
    ("unet/diffusion_pytorch_model.safetensors", include_bytes!("unet/diffusion_pytorch_model.safetensors")),
    ("vae/config.json", include_bytes!("vae/config.json")),
    ("vae/diffusion_pytorch_model.safetensors", include_bytes!("vae/diffusion_pytorch_model.safetensors")),
    ("scheduler/scheduler_config.json", include_bytes!("scheduler/scheduler_config.json")),
    ("prompt_embeds.safetensors", include_bytes!("prompt_embeds.safetensors")),
];
