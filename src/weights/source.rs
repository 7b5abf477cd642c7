//! The bytes of a weight file, on disk or in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Mutex;

/// A file that is read piece by piece, or bytes in memory. A file is not memory-mapped: if it
/// shrinks while it is read, a read returns an error and the process survives.
pub(super) enum Source {
    File(Mutex<File>, u64),
    Memory(Vec<u8>),
}

impl Source {
    pub fn of_file(file: File) -> io::Result<Source> {
        let length = file.metadata()?.len();
        Ok(Source::File(Mutex::new(file), length))
    }

    /// Size in bytes at the time of opening.
    pub fn len(&self) -> u64 {
        match self {
            Source::File(_, length) => *length,
            Source::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `into` with the bytes from offset `at` on.
    pub fn read_into(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Source::File(file, _) => {
                let mut file = file.lock().unwrap_or_else(|e| e.into_inner());
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(into)
            }
            Source::Memory(bytes) => {
                let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
                into.copy_from_slice(rest.and_then(|r| r.get(..into.len())).ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// `length` bytes from offset `at` on. A range beyond the end is refused before memory is
    /// allocated.
    pub fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        if at.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = zeros(length)?;
        self.read_into(at, &mut bytes)?;
        Ok(bytes)
    }

    /// The first bytes, at most `most`.
    pub fn head(&self, most: usize) -> io::Result<Vec<u8>> {
        self.read(0, usize::try_from(self.len()).unwrap_or(most).min(most))
    }
}

/// A buffer of `length` zero bytes; an error if the machine has too little memory.
pub(super) fn zeros(length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length)?;
    bytes.resize(length, 0);
    Ok(bytes)
}

/// `left` bytes of a source from offset `at` on, as a stream.
pub(super) struct Section<'a> {
    pub source: &'a Source,
    pub at: u64,
    pub left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.left).unwrap_or(into.len()).min(into.len());
        self.source.read_into(self.at, &mut into[..n])?;
        (self.at, self.left) = (self.at + n as u64, self.left - n as u64);
        Ok(n)
    }
}
