//! Memory of a CUDA device that its programs share: arena, scratch and weights.

use super::driver::Driver;
use crate::error::{Error, Result};
use crate::graph::ALIGNMENT;
use crate::tensor::{Dtype, WeightPart};
use crate::weights::Weights;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A device and the memory that its programs share. Only one program runs at a time.
#[derive(Clone)]
pub struct CudaDevice {
    pub(crate) driver: Arc<dyn Driver>,
    shared: Arc<Mutex<Shared>>,
    /// Id of the program whose values are in the arena. The lock is held while a program runs or is
    /// read, and while the arena grows.
    owner: Arc<Mutex<u64>>,
}

#[derive(Default)]
pub(super) struct Shared {
    arena: Option<Buffer>,
    scratch: Option<Buffer>,
    weights: WeightCache,
}

impl CudaDevice {
    /// A device that works through `driver`.
    pub fn new(driver: Arc<dyn Driver>) -> CudaDevice {
        CudaDevice { driver, shared: Arc::default(), owner: Arc::default() }
    }
}

/// Device or host memory, freed when dropped.
pub(super) struct Buffer {
    device: Arc<dyn Driver>,
    pub address: u64,
    pub bytes: u64,
    /// Pinned host memory, from which the device copies.
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

/// Memory of one tensor outside the arena. It is a part of an allocation, which lives as long as
/// any of its parts.
#[derive(Clone)]
pub(super) struct Part {
    _of: Arc<Buffer>,
    pub address: u64,
}

/// Allocates once for values of these sizes in bytes: the driver rounds every allocation up, by as
/// much as 2 MiB.
fn parts(sizes: &[u64], allocate: impl FnOnce(u64) -> Result<Buffer>) -> Result<Vec<Part>> {
    let (mut starts, mut end) = (Vec::with_capacity(sizes.len()), 0);
    for bytes in sizes {
        starts.push(end);
        end += bytes.next_multiple_of(ALIGNMENT);
    }
    if starts.is_empty() {
        return Ok(Vec::new());
    }
    let buffer = Arc::new(allocate(end)?);
    Ok(starts.into_iter().map(|start| Part { address: buffer.address + start, _of: buffer.clone() }).collect())
}

/// A weight that a program reads.
pub(super) struct Wanted<'a> {
    pub name: &'a str,
    pub parts: &'a [WeightPart],
    pub dtype: Dtype,
    /// The weight stays in host memory; it is copied to the window before each step that reads it.
    pub on_host: bool,
}

impl Wanted<'_> {
    fn bytes(&self) -> u64 {
        (self.parts.iter().map(|p| p.shape.numel()).sum::<usize>() * self.dtype.bytes()) as u64
    }

    fn key(&self, model: &Weak<()>) -> WeightKey {
        // The address is unique: it is not reused while the cache holds the `Weak`.
        (model.as_ptr() as usize, self.name.to_string(), self.dtype, self.on_host)
    }

    /// The values in their storage type.
    fn encoded(&self, weights: &Weights) -> Result<Vec<u8>> {
        encoded(self.name, &weights.read(self.parts)?, self.dtype)
    }
}

/// Values of the weight `name` in a storage type. Fails if the type does not reach as far.
fn encoded(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<u8>> {
    if dtype == Dtype::F16
        && let Some(v) = values.iter().find(|v| half::f16::from_f32(**v).is_infinite())
    {
        return Err(Error::Invalid(format!("weight {name} holds {v}, and f16 ends at 65504: choose bf16 or f32")));
    }
    Ok(encode(values, dtype))
}

/// Values in a storage type.
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

/// Address of the model's identity, weight name, storage type, whether the weight is in host
/// memory.
type WeightKey = (usize, String, Dtype, bool);

/// Weights that all programs of a device share.
pub(super) type WeightCache = HashMap<WeightKey, (Weak<()>, Part)>;

impl CudaDevice {
    pub(super) fn owner(&self) -> MutexGuard<'_, u64> {
        self.owner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Memory with these named values in their types, for inputs and constants of a program, in one
    /// allocation.
    pub(super) fn filled(&self, all: &[(&str, &[f32], Dtype)]) -> Result<Vec<Part>> {
        let sizes: Vec<u64> = all.iter().map(|(_, values, dtype)| (values.len() * dtype.bytes()) as u64).collect();
        let parts = parts(&sizes, |bytes| Buffer::new(&self.driver, bytes))?;
        for (part, (name, values, dtype)) in parts.iter().zip(all) {
            match dtype {
                Dtype::F32 => self.driver.upload(part.address, bytemuck::cast_slice(values))?,
                _ => self.driver.upload(part.address, &encoded(name, values, *dtype)?)?,
            }
        }
        Ok(parts)
    }

    /// Frees the weights of closed models. A program that still runs one holds its own references.
    pub(super) fn forget_closed_models(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        shared.weights.retain(|_, (model, _)| model.strong_count() > 0);
    }

    /// The weights in their storage types, in device memory or, for a window, in host memory. The
    /// ones that are not there yet get one allocation of each kind.
    pub(super) fn weights(&self, weights: &Weights, wanted: &[Wanted<'_>]) -> Result<Vec<Part>> {
        let model = weights.identity();
        let mut shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        for on_host in [false, true] {
            let is_missing = |w: &&Wanted<'_>| w.on_host == on_host && !shared.weights.contains_key(&w.key(&model));
            let missing: Vec<&Wanted<'_>> = wanted.iter().filter(is_missing).collect();
            let sizes: Vec<u64> = missing.iter().map(|w| w.bytes()).collect();
            let parts = parts(&sizes, |bytes| match on_host {
                true => Buffer::on_host(&self.driver, bytes),
                false => Buffer::new(&self.driver, bytes),
            })?;
            for (weight, part) in missing.iter().zip(&parts) {
                let bytes = weight.encoded(weights)?;
                match on_host {
                    true => self.driver.write_host(part.address, &bytes)?,
                    false => self.driver.upload(part.address, &bytes)?,
                }
            }
            let keys = missing.iter().map(|w| w.key(&model));
            shared.weights.extend(keys.zip(parts.into_iter().map(|part| (model.clone(), part))));
        }
        Ok(wanted.iter().map(|w| shared.weights[&w.key(&model)].1.clone()).collect())
    }

    /// Address of the arena, address of the scratch, bytes of the scratch.
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

/// Grows a buffer to at least `bytes`; its content is lost if it grows.
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
