//! Weight files, read as data, and the weights of a model in the layout of its graph.
//!
//! [`Checkpoint::open`] detects the format by content: safetensors, or the formats of `torch.save`
//! (a zip archive, or a chain of pickles before PyTorch 1.6). Files may come from strangers.
//! Nothing in them is executed, and opening one takes at most three times its size plus 64 MiB of
//! memory, whatever it claims. Values are read when they are asked for.

mod checkpoint;
mod file_tensor;
mod fingerprint;
mod kinds;
mod legacy;
mod model_weights;
mod names;
mod number;
mod pickle;
mod pickle_calls;
mod pickle_value;
mod pt;
mod safe;
mod shards;
mod source;
mod state_dict;
mod zip_directory;

pub use checkpoint::Checkpoint;
pub(crate) use checkpoint::in_file_order;
pub use file_tensor::FileTensor;
pub(crate) use fingerprint::hexadecimal;
pub use model_weights::{WeightFiles, Weights};
pub use number::Number;
pub use safe::{write_safetensors, write_safetensors_f16, write_safetensors_with};
pub use shards::open_part;
