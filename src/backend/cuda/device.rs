//! Memory of a CUDA device that its programs share: arena, scratch and weights.

use super::driver::Driver;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Shape};
use crate::weights::Weights;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A device with what its programs share: only one of them runs at a time.
#[derive(Clone)]
pub struct CudaDevice {
    pub(crate) driver: Arc<dyn Driver>,
    shared: Arc<Mutex<Shared>>,
    /// The program whose values lie in the arena. Held while a program runs or is read, and while the arena grows.
    owner: Arc<Mutex<u64>>,
}

#[derive(Default)]
pub(super) struct Shared {
    arena: Option<Buffer>,
    scratch: Option<Buffer>,
    weights: WeightCache,
}

impl CudaDevice {
    /// A device over `driver`.
    pub fn new(driver: Arc<dyn Driver>) -> CudaDevice {
        CudaDevice { driver, shared: Arc::default(), owner: Arc::default() }
    }
}

/// Device memory, given back when dropped.
pub(super) struct Buffer {
    device: Arc<dyn Driver>,
    pub address: u64,
    pub bytes: u64,
    /// Memory of the host that the device copies from.
    on_host: bool,
}

impl Buffer {
    pub fn new(device: &Arc<dyn Driver>, bytes: u64) -> Result<Buffer> {
        Ok(Buffer { device: device.clone(), address: device.allocate(bytes.max(256))?, bytes, on_host: false })
    }

    pub(super) fn on_host(device: &Arc<dyn Driver>, bytes: u64) -> Result<Buffer> {
        Ok(Buffer { device: device.clone(), address: device.allocate_host(bytes.max(256))?, bytes, on_host: true })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.on_host {
            true => self.device.free_host(self.address),
            false => self.device.free(self.address),
        }
    }
}

/// Values in their storage type.
pub(super) fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    const CHUNK: usize = 1 << 16;
    let mut bytes = vec![0; values.len() * dtype.bytes()];
    let chunks = bytes.par_chunks_mut(CHUNK * dtype.bytes()).zip(values.par_chunks(CHUNK));
    chunks.for_each(|(to, from)| match dtype {
        Dtype::F32 => to.copy_from_slice(bytemuck::cast_slice(from)),
        Dtype::F16 => {
            to.as_chunks_mut().0.iter_mut().zip(from).for_each(|(b, v)| *b = half::f16::from_f32(*v).to_le_bytes())
        }
        Dtype::Bf16 => {
            to.as_chunks_mut().0.iter_mut().zip(from).for_each(|(b, v)| *b = half::bf16::from_f32(*v).to_le_bytes())
        }
    });
    bytes
}

pub(super) fn decode(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        Dtype::F32 => out
            .iter_mut()
            .zip(bytes.chunks_exact(4))
            .for_each(|(o, b)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Dtype::F16 => out.iter_mut().zip(halves()).for_each(|(o, b)| *o = half::f16::from_bits(b).to_f32()),
        Dtype::Bf16 => out.iter_mut().zip(halves()).for_each(|(o, b)| *o = half::bf16::from_bits(b).to_f32()),
    }
}

/// Weights of one model in one storage type, shared by all programs of a device.
pub(super) type WeightCache = HashMap<(usize, String, Dtype, bool), (Weak<()>, Arc<Buffer>)>;

impl CudaDevice {
    pub(super) fn owner(&self) -> MutexGuard<'_, u64> {
        self.owner.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn filled(&self, values: &[f32]) -> Result<Buffer> {
        let buffer = Buffer::new(&self.driver, 4 * values.len() as u64)?;
        self.driver.upload(buffer.address, bytemuck::cast_slice(values))?;
        Ok(buffer)
    }

    /// Gives back the weights of models that are closed. A program that still runs one holds its buffers itself.
    pub(super) fn forget_closed_models(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        shared.weights.retain(|_, (model, _)| model.strong_count() > 0);
    }

    /// A weight in its storage type, on the device or, for a window, with the host.
    pub(super) fn weight(
        &self,
        weights: &Weights,
        name: &str,
        shape: Shape,
        dtype: Dtype,
        on_host: bool,
    ) -> Result<Arc<Buffer>> {
        let model = weights.identity();
        // An address is not given twice while the cache holds the `Weak`.
        let key = (model.as_ptr() as usize, name.to_string(), dtype, on_host);
        let mut shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, buffer)) = shared.weights.get(&key) {
            return Ok(buffer.clone());
        }
        let values = weights.read(name, shape)?;
        if dtype == Dtype::F16
            && let Some(v) = values.iter().find(|v| half::f16::from_f32(**v).is_infinite())
        {
            return Err(Error::Invalid(format!("weight {name} holds {v}, and f16 ends at 65504: choose bf16 or f32")));
        }
        let bytes = encode(&values, dtype);
        let buffer = if on_host {
            let buffer = Buffer::on_host(&self.driver, bytes.len() as u64)?;
            self.driver.write_host(buffer.address, &bytes)?;
            buffer
        } else {
            let buffer = Buffer::new(&self.driver, bytes.len() as u64)?;
            self.driver.upload(buffer.address, &bytes)?;
            buffer
        };
        let buffer = Arc::new(buffer);
        shared.weights.insert(key, (model, buffer.clone()));
        Ok(buffer)
    }

    /// Addresses of arena and scratch, and bytes of scratch.
    pub(super) fn places(&self) -> (u64, u64, u64) {
        let shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        let at = |b: &Option<Buffer>| b.as_ref().map_or(0, |b| b.address);
        (at(&shared.arena), at(&shared.scratch), shared.scratch.as_ref().map_or(0, |b| b.bytes))
    }

    pub(super) fn reserve_arena(&self, bytes: u64) -> Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        grow(&self.driver, &mut shared.arena, bytes)
    }

    pub(super) fn reserve_scratch(&self, bytes: u64) -> Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        grow(&self.driver, &mut shared.scratch, bytes)
    }
}

/// At least `bytes`; what it held is lost.
pub(super) fn grow(driver: &Arc<dyn Driver>, buffer: &mut Option<Buffer>, bytes: u64) -> Result<()> {
    if buffer.as_ref().is_none_or(|b| b.bytes < bytes) {
        *buffer = None;
        *buffer = Some(Buffer::new(driver, bytes).map_err(|e| match e {
            Error::Memory(reason) => {
                Error::Memory(format!("no room for the arena of the plan: {reason}; give a --memory budget"))
            }
            other => other,
        })?);
    }
    Ok(())
}
