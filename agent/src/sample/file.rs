//! One kernel file that is read again and again.
//!
//! Owns how: opened once below a directory that was checked, then `pread` from the start. When too
//! many are open already, a file is opened for each reading instead.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, open, openat};
use rustix::io::{Errno, pread};

/// A directory that is certainly the one with this inode number.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens it; an error when another directory stands at this path by now.
    pub(super) fn open(path: &Path, inode: u64) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty())?;
        if fstat(&fd)?.st_ino == inode {
            Ok(Self {
                fd,
                path: path.to_owned(),
            })
        } else {
            Err(io::Error::from(io::ErrorKind::NotFound))
        }
    }

    /// A file in it; `None` when there is none of this name.
    pub(super) fn file(&self, name: &str, keep: bool) -> io::Result<Option<KernelFile>> {
        match openat(
            &self.fd,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(KernelFile {
                path: self.path.join(name),
                fd: keep.then_some(fd),
                // As the kernel does all files of control groups.
                at_once: true,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file below `/proc` or `/sys`.
#[derive(Debug)]
pub(super) struct KernelFile {
    path: PathBuf,
    fd: Option<OwnedFd>,
    /// Whether it is written out in one: then a reading that is not full was the last.
    at_once: bool,
}

impl KernelFile {
    /// By path, opened for each reading.
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            path,
            fd: None,
            at_once: false,
        }
    }

    /// Whether a descriptor is kept open.
    pub(super) fn is_kept(&self) -> bool {
        self.fd.is_some()
    }

    /// Its whole text now.
    pub(super) fn read<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<&'b str, String> {
        let read = match &self.fd {
            Some(fd) => read_all(fd, buffer, self.at_once),
            None => open(&self.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|fd| read_all(&fd, buffer, self.at_once)),
        };
        read.map_err(|error| self.refusal(&error.to_string()))?;
        std::str::from_utf8(buffer).map_err(|_| self.refusal("it is not text"))
    }

    /// Its text through `parse`; a refusal names the file.
    pub(super) fn parse<T>(
        &self,
        buffer: &mut Vec<u8>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, String> {
        let text = self.read(buffer)?;
        parse(text).ok_or_else(|| self.refusal("it has not the expected form"))
    }

    fn refusal(&self, why: &str) -> String {
        let name = self
            .path
            .file_name()
            .unwrap_or(OsStr::new("?"))
            .to_string_lossy();
        format!(
            "could not read {name} of {}: {why}",
            self.path.parent().unwrap_or(Path::new("/")).display()
        )
    }
}

fn read_all(fd: &OwnedFd, buffer: &mut Vec<u8>, at_once: bool) -> Result<(), Errno> {
    const STEP: usize = 4096;
    buffer.clear();
    loop {
        let filled = buffer.len();
        buffer.resize(filled + STEP, 0);
        let offset = u64::try_from(filled).unwrap_or(u64::MAX);
        let count = pread(fd, &mut buffer[filled..], offset).inspect_err(|_| buffer.clear())?;
        buffer.truncate(filled + count);
        if count == 0 || (at_once && count < STEP) {
            return Ok(());
        }
    }
}
