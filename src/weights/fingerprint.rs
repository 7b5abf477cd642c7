//! A hash that identifies a model's weights without reading gigabytes.

use super::checkpoint::Checkpoint;
use super::model_weights::Weights;
use crate::error::Result;
use sha2::{Digest, Sha256};

/// Bytes of every tensor that are hashed. Training changes all values of a tensor, so its first
/// ones are enough to distinguish models.
const HEAD: usize = 4096;

impl Weights {
    /// SHA-256 in hexadecimal. It covers name, shape, type and first bytes of every tensor in the
    /// files, and all values that were given without a file.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = self.hash_of_files()?;
        let loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        let mut given: Vec<_> = loaded.iter().filter(|(name, _)| !self.files.holds(name)).collect();
        given.sort_by_key(|(name, _)| name.as_str());
        for (name, values) in given {
            hash.update(name);
            hash.update(bytemuck::cast_slice(values));
        }
        Ok(hexadecimal(hash))
    }
}

impl Weights {
    /// As [`Weights::sha256`], of the files alone: another text embedding does not change it.
    pub fn files_sha256(&self) -> Result<String> {
        self.hash_of_files().map(hexadecimal)
    }

    fn hash_of_files(&self) -> Result<Sha256> {
        let mut hash = Sha256::new();
        self.files.0.iter().try_for_each(|(prefix, file)| file.add_to(prefix, &mut hash))?;
        Ok(hash)
    }
}

/// The hash in hexadecimal.
pub(crate) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

impl Checkpoint {
    fn add_to(&self, prefix: &str, hash: &mut Sha256) -> Result<()> {
        for (name, tensor) in &self.tensors {
            hash.update(format!("{prefix}{name} {:?} {:?};", tensor.shape, tensor.number));
            hash.update(self.head(tensor, HEAD)?);
        }
        Ok(())
    }
}
