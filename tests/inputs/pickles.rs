//! Writes what `torch.save` writes: pickles, zip archives, and files of PyTorch before version 1.6.

use std::io::Write;

/// A pickle as it grows; each call appends one value or operation.
#[derive(Clone)]
pub struct Pickle(Vec<u8>);

/// A tensor of storage `key`: element type, elements of the storage, offset, extents, strides.
pub struct Described<'a> {
    pub key: &'a str,
    pub storage: &'a str,
    pub elements: i32,
    pub offset: i32,
    pub shape: &'a [i32],
    pub strides: &'a [i32],
}

impl<'a> Described<'a> {
    /// A row-major tensor that fills its storage.
    pub fn whole(key: &'a str, storage: &'a str, shape: &'a [i32], strides: &'a [i32]) -> Self {
        Described { key, storage, elements: shape.iter().product(), offset: 0, shape, strides }
    }
}

impl Pickle {
    pub fn new() -> Self {
        Pickle(vec![0x80, 2])
    }
    pub fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    pub fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }
    pub fn int(self, value: i32) -> Self {
        self.op(b"J").op(&value.to_le_bytes())
    }
    pub fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }
    fn extents(self, extents: &[i32]) -> Self {
        extents.iter().fold(self.op(b"("), |p, &n| p.int(n)).op(b"t")
    }
    /// A tensor, with `view` at the end of the id of its storage (files before version 1.6 have
    /// one).
    pub fn tensor(self, t: &Described, view: &[u8]) -> Self {
        let p = self.global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage").global("torch", t.storage);
        let p = p.text(t.key).text("cpu").int(t.elements).op(view).op(b"tQ").int(t.offset);
        p.extents(t.shape).extents(t.strides).op(b"\x89}tR")
    }
    /// `{name: tensor}` for each, without the end.
    pub fn dict(self, tensors: &[(&str, Described)], view: &[u8]) -> Self {
        tensors.iter().fold(self.op(b"}"), |p, (name, t)| p.text(name).tensor(t, view).op(b"s"))
    }
    pub fn end(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// A zip archive of these members; the flag deflates one.
pub fn zip(members: &[(&str, &[u8], bool)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes, is_deflated) in members {
        let method = if *is_deflated { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A PyTorch archive of a pickle and one storage.
pub fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("archive/data.pkl", pickle, false), ("archive/data/0", storage, false)])
}

/// A file of PyTorch before version 1.6: `object` beside storages (key, elements, bytes).
pub fn legacy(object: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    file.extend(Pickle::new().op(b"}").text("little_endian").op(b"\x88s").end());
    file.extend(object);
    file.extend(storages.iter().fold(Pickle::new().op(b"]("), |p, s| p.text(s.0)).op(b"e").end());
    for (_, elements, bytes) in storages {
        file.extend(elements.to_le_bytes());
        file.extend(*bytes);
    }
    file
}

/// A safetensors file of this JSON header and these bytes.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}
