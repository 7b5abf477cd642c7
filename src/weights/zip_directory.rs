//! The directory of a zip archive. It gives the positions of the members, so that stored ones are
//! read in place. Every size in it is checked against the file before memory is allocated.

use super::source::{Section, Source, zeros};
use std::collections::HashMap;
use std::io::Read;

/// Limits on the directory's size in bytes and on its members; no archive of weights exceeds them.
const LARGEST_DIRECTORY: u64 = 8 << 20;
const MOST_MEMBERS: usize = 1 << 16;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Marks a field whose 64-bit value is stored elsewhere.
const NOT_HERE: u64 = u32::MAX as u64;
/// Maximum length of the end record: 22 bytes and a comment of at most 65,535.
const LONGEST_END: usize = 22 + 65_535;

/// A member of the archive according to the directory.
pub(super) struct Member {
    header: u64,
    stored_bytes: u64,
    /// Size in bytes after inflating.
    pub bytes: u64,
    method: u16,
    encrypted: bool,
}

/// Members by name.
pub(super) fn members(source: &Source) -> Result<HashMap<String, Member>, String> {
    let damaged = |what: &str| format!("not a sound zip archive ({what}); download it again");
    let (at, bytes, count) = directory(source).ok_or_else(|| damaged("its directory is missing"))?;
    if bytes > LARGEST_DIRECTORY || count > MOST_MEMBERS as u64 {
        return Err(format!("its zip directory lists {count} members, more than an archive of weights has"));
    }
    let directory = source.read(at, bytes as usize).map_err(|_| damaged("its directory is cut off"))?;
    let mut members = HashMap::new();
    let mut rest = &directory[..];
    for _ in 0..count {
        let (name, member, length) = entry(rest).ok_or_else(|| damaged("an entry of its directory is cut off"))?;
        members.insert(name, member);
        rest = &rest[length..];
    }
    Ok(members)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The directory's (offset, size in bytes, number of entries).
fn directory(source: &Source) -> Option<(u64, u64, u64)> {
    let tail_length = source.len().min(LONGEST_END as u64);
    let tail_start = source.len() - tail_length;
    let tail = source.read(tail_start, tail_length as usize).ok()?;
    let end = tail.windows(4).rposition(|w| w == b"PK\x05\x06")?;
    let count = u16_at(&tail, end + 10)?;
    let (bytes, at) = (u32_at(&tail, end + 12)?, u32_at(&tail, end + 16)?);
    if count != u16::MAX && bytes != NOT_HERE && at != NOT_HERE {
        return Some((at, bytes, count.into()));
    }
    // Large archives have a second end record. A locator of 20 bytes before the first end record
    // points to it.
    let locator_at = (tail_start + end as u64).checked_sub(20)?;
    let locator = source.read(locator_at, 20).ok().filter(|l| l.starts_with(b"PK\x06\x07"))?;
    let record = source.read(u64_at(&locator, 8)?, 56).ok().filter(|r| r.starts_with(b"PK\x06\x06"))?;
    Some((u64_at(&record, 48)?, u64_at(&record, 40)?, u64_at(&record, 32)?))
}

/// The directory entry at the start of `bytes`: name, member, and length of the entry.
fn entry(bytes: &[u8]) -> Option<(String, Member, usize)> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let (flags, method) = (u16_at(bytes, 8)?, u16_at(bytes, 10)?);
    let (name_length, extra_length) = (usize::from(u16_at(bytes, 28)?), usize::from(u16_at(bytes, 30)?));
    let length = 46 + name_length + extra_length + usize::from(u16_at(bytes, 32)?);
    let name = bytes.get(46..46 + name_length)?;
    let extra = bytes.get(46 + name_length..46 + name_length + extra_length)?;
    bytes.get(..length)?;
    let mut large = large_sizes(extra).unwrap_or_default().chunks_exact(8);
    let mut field = |at: usize| match u32_at(bytes, at)? {
        NOT_HERE => u64_at(large.next()?, 0),
        small => Some(small),
    };
    let (full_bytes, stored_bytes, header) = (field(24)?, field(20)?, field(42)?);
    let member = Member { header, stored_bytes, bytes: full_bytes, method, encrypted: flags & 1 != 0 };
    Some((String::from_utf8_lossy(name).into_owned(), member, length))
}

/// The extra field that holds sizes of 64 bits.
fn large_sizes(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (kind, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..4 + length)?;
        if kind == 1 {
            return Some(field);
        }
        extra = &extra[4 + length..];
    }
}

impl Member {
    /// True if the member is stored uncompressed.
    pub fn is_stored(&self) -> bool {
        self.method == STORED
    }

    /// Offset of the member's bytes in the archive, and their number there.
    pub fn place(&self, source: &Source) -> Result<(u64, u64), String> {
        let header = source.read(self.header, 30).ok().filter(|h| h.starts_with(b"PK\x03\x04"));
        let header = header.ok_or("its header is not where the directory says")?;
        if self.encrypted || !matches!(self.method, STORED | DEFLATED) {
            return Err("it is encrypted or compressed otherwise than by deflate; save it again by torch.save".into());
        }
        let names = u16_at(&header, 26).unwrap_or(0) as u64 + u16_at(&header, 28).unwrap_or(0) as u64;
        let start = self.header + 30 + names;
        if start.checked_add(self.stored_bytes).is_none_or(|end| end > source.len()) {
            return Err("it reaches beyond the end of the archive; download it again".into());
        }
        Ok((start, self.stored_bytes))
    }

    /// The member's bytes, inflated if they are compressed; an error beyond `most` bytes.
    pub fn read(&self, source: &Source, most: u64) -> Result<Vec<u8>, String> {
        let (at, left) = self.place(source)?;
        let bytes = if self.is_stored() { left } else { self.bytes };
        if bytes > most {
            return Err(format!("it takes {bytes} bytes, more than the {most} that are allowed here"));
        }
        let read = match self.is_stored() {
            true => source.read(at, bytes as usize),
            false => zeros(bytes as usize).and_then(|mut read| {
                flate2::read::DeflateDecoder::new(Section { source, at, left }).read_exact(&mut read)?;
                Ok(read)
            }),
        };
        read.map_err(|e| format!("it can't be read ({e}); download it again"))
    }
}
