//! PyTorch's zip archives (`.pt`, `.pth`, `.bin`, `.ckpt`): a pickle that describes tensors, and
//! one member per storage. PyTorch stores members uncompressed; these are read in place.

use super::file_tensor::{Contents, FileTensor};
use super::source::Source;
use super::zip_directory::{Member, members};
use super::{pickle, state_dict};
use std::collections::HashMap;

/// Maximum size of the pickle in bytes; a larger one holds more than tensor descriptions.
const LARGEST_PICKLE: u64 = 12 << 20;
/// Compressed members may inflate to twice the file size plus this many bytes.
const INFLATED_FREE: u64 = 24 << 20;

pub(super) fn open(source: Source) -> Result<Contents, String> {
    let members = members(&source)?;
    let folder = (members.keys().filter_map(|n| n.strip_suffix("data.pkl")))
        .find(|folder| folder.is_empty() || folder.ends_with('/'))
        .ok_or_else(|| not_pytorch(&members))?
        .to_string();
    let read = |name: &str, most: u64| match members.get(&format!("{folder}{name}")) {
        Some(member) => member.read(&source, most).map_err(|e| format!("{folder}{name}: {e}")),
        None => Ok(Vec::new()),
    };
    if members.keys().any(|n| n.strip_prefix(&folder).is_some_and(|n| n == "constants.pkl" || n.starts_with("code/"))) {
        return Err("a TorchScript archive, which is a program with its weights; save the state_dict of its network \
                    instead, by torch.save(torch.jit.load(path).state_dict(), other)"
            .into());
    }
    if read("byteorder", 64)?.starts_with(b"big") {
        return Err("saved by a machine of the other byte order; save it again on another".into());
    }
    let described = state_dict::weights(&pickle::read(&read("data.pkl", LARGEST_PICKLE)?)?.value)?;
    let mut budget = (2 * source.len()).saturating_add(INFLATED_FREE);
    let mut contents = Contents::of(source);
    let mut storages = HashMap::new();
    for (name, tensor) in described {
        let key = format!("{folder}data/{}", tensor.storage.key);
        let wrong = |reason: &str| format!("tensor {name}: {key}: {reason}");
        let (source, start, bytes) = match storages.get(&key) {
            Some(&place) => place,
            None => {
                let member = members.get(&key).ok_or_else(|| wrong("no such file in the archive"))?;
                let place = place(member, &mut contents, &mut budget).map_err(|e| wrong(&e))?;
                storages.insert(key.clone(), place);
                place
            }
        };
        contents.tensors.insert(name.clone(), FileTensor::rebuilt(&name, &tensor, source, start, bytes)?);
    }
    Ok(contents)
}

/// Position of a storage: (source, first byte, number of bytes). A compressed one is inflated to a
/// new source.
fn place(member: &Member, contents: &mut Contents, budget: &mut u64) -> Result<(usize, u64, u64), String> {
    let archive = &contents.sources[0];
    if member.is_stored() {
        let (start, bytes) = member.place(archive)?;
        return Ok((0, start, bytes));
    }
    let inflated = member.read(archive, *budget)?;
    *budget -= inflated.len() as u64;
    contents.sources.push(Source::Memory(inflated));
    Ok((contents.sources.len() - 1, 0, member.bytes))
}

fn not_pytorch(members: &HashMap<String, Member>) -> String {
    let holds = |ends: &[&str]| members.keys().find(|n| ends.iter().any(|e| n.ends_with(e)));
    let kind = match (holds(&[".safetensors", ".pt", ".pth", ".bin", ".ckpt"]), holds(&[".npy"]), holds(&[".h5"])) {
        (Some(inner), _, _) => return format!("a zip archive that holds {inner}; unpack it first"),
        (_, Some(_), _) => "NumPy arrays (.npz); save the weights as safetensors",
        (_, _, Some(_)) => "a Keras model; convert it to safetensors",
        _ => "no data.pkl, so it is not PyTorch's; give a weight file",
    };
    format!("a zip archive with {kind}")
}
