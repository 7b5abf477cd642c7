//! Files of PyTorch before version 1.6. They start with pickles of a magic number, a protocol, the
//! system, the tensor descriptions and the storage keys. Then each storage follows: its element
//! count and its bytes.

use super::file_tensor::{Contents, FileTensor};
use super::pickle;
use super::pickle_value::Value;
use super::source::Source;
use super::state_dict;
use std::collections::HashMap;

/// The number 0x1950a86a20f9469cfc6c as a pickle.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// Maximum size of the pickles in bytes; larger ones hold more than tensor descriptions.
const LARGEST_PICKLES: usize = 12 << 20;

pub(super) fn open(source: Source) -> Result<Contents, String> {
    let head = source.head(LARGEST_PICKLES).map_err(|e| e.to_string())?;
    let magic = pickle::read(&head)?;
    if !head[..magic.length].windows(MAGIC.len()).any(|w| w == MAGIC) {
        return Err("a pickle that torch.save did not write; save the weights as safetensors".into());
    }
    let mut at = magic.length;
    let mut next = || -> Result<pickle::Pickled, String> {
        let read = pickle::read(&head[at..])?;
        at += read.length;
        Ok(read)
    };
    let (_protocol, _system) = (next()?, next()?);
    let (object, keys) = (next()?, next()?);
    let Value::List(keys) = keys.value else { return Err("its list of storages is missing; download it again".into()) };
    let mut places = HashMap::new();
    let mut start = at as u64;
    for key in keys.texts.borrow().iter() {
        let &(number, elements) = object
            .storages
            .get(key)
            .ok_or_else(|| format!("its storage {key} belongs to no tensor; download it again"))?;
        let ends_early = || format!("it ends within storage {key}; download it again");
        let count = source.read(start, 8).map_err(|_| ends_early())?;
        let count = count.first_chunk().map_or(0, |c| u64::from_le_bytes(*c));
        let bytes = count.checked_mul(number.bytes() as u64).filter(|_| elements as u64 <= count);
        let bytes = bytes.ok_or_else(|| format!("its storage {key} has {count} elements, not {elements}"))?;
        places.insert(key.clone(), (start + 8, bytes));
        start = (start + 8).checked_add(bytes).filter(|&end| end <= source.len()).ok_or_else(ends_early)?;
    }
    let mut contents = Contents::of(source);
    for (name, tensor) in state_dict::weights(&object.value)? {
        let &(start, bytes) = places
            .get(&tensor.storage.key)
            .ok_or_else(|| format!("tensor {name}: the file lacks its storage; download it again"))?;
        contents.tensors.insert(name.clone(), FileTensor::rebuilt(&name, &tensor, 0, start, bytes)?);
    }
    Ok(contents)
}
