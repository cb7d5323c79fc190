//! Where a running agent shows its status.
//!
//! Owns that nothing is written to the disk for it: `status.json` is a link to a file in the agent's memory, which
//! is gone with the agent. Where that cannot be had, it is a file like any other.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
use rustix::io::{DupFlags, dup3};

use super::{Status, file};

/// What `status` reads while the agent runs.
#[derive(Debug)]
pub struct Board {
    data: PathBuf,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Nothing,
    InMemory(OwnedFd),
    OnDisk,
}

impl Board {
    /// Of the agent whose data folder is `data`; nothing is shown yet.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            shown: Shown::Nothing,
        }
    }

    /// Replaces what is shown, at once.
    ///
    /// # Errors
    /// When it can be shown neither in memory nor on the disk.
    pub fn show(&mut self, status: &Status) -> io::Result<()> {
        match &mut self.shown {
            Shown::Nothing => match self.link(status) {
                Ok(memory) => {
                    self.shown = Shown::InMemory(memory);
                    Ok(())
                }
                Err(error) => {
                    tracing::debug!(%error, "the status is written to the disk");
                    self.shown = Shown::OnDisk;
                    status.publish(&self.data)
                }
            },
            // Whoever reads just now goes on reading the old one.
            Shown::InMemory(memory) => Ok(dup3(in_memory(status)?, memory, DupFlags::CLOEXEC)?),
            Shown::OnDisk => status.publish(&self.data),
        }
    }

    fn link(&self, status: &Status) -> io::Result<OwnedFd> {
        let memory = in_memory(status)?;
        let target = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
        // Elsewhere, or without /proc, somebody else's or nothing would be there.
        if fs::read(&target)? != status.json() {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let path = file(&self.data);
        let draft = path.with_extension("json.tmp");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::os::unix::fs::symlink(&target, &draft)?,
        }
        fs::rename(&draft, &path)?;
        Ok(memory)
    }
}

fn in_memory(status: &Status) -> io::Result<OwnedFd> {
    let memory = memfd_create("status.json", MemfdFlags::CLOEXEC)?;
    fchmod(&memory, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(memory);
    file.write_all(&status.json())?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::identity::tests::enrolment;

    fn status(data: &Path) -> Status {
        let keys = Identity::keys_to_enroll(data).unwrap();
        let (_, enrolment) = enrolment(keys, &["127.0.0.1:9"]);
        Identity::store(data, enrolment).unwrap();
        Status::new(&Identity::load(data).unwrap().unwrap())
    }

    fn shown(data: &Path) -> Status {
        serde_json::from_slice(&fs::read(file(data)).unwrap()).unwrap()
    }

    #[test]
    fn what_is_shown_is_read_through_the_link_and_a_reader_keeps_what_it_opened() {
        let folder = tempfile::tempdir().unwrap();
        let mut status = status(folder.path());
        let mut board = Board::new(folder.path());
        board.show(&status).unwrap();
        assert!(file(folder.path()).is_symlink());
        assert_eq!(shown(folder.path()), status);
        let mut opened = File::open(file(folder.path())).unwrap();
        let before = status.clone();
        status.unreceipted = 17;
        board.show(&status).unwrap();
        assert_eq!(shown(folder.path()), status);
        let old: Status = serde_json::from_reader(&mut opened).unwrap();
        assert_eq!(old, before);
        drop(board);
        assert!(
            fs::read(file(folder.path())).is_err(),
            "gone with the agent"
        );
        status.publish(folder.path()).unwrap();
        assert!(!file(folder.path()).is_symlink());
        assert_eq!(shown(folder.path()), status);
    }

    #[test]
    fn where_no_link_can_be_made_it_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let status = status(folder.path());
        fs::create_dir(folder.path().join("status.json.tmp")).unwrap();
        let mut board = Board::new(folder.path());
        assert!(board.show(&status).is_err(), "the draft's name is taken");
        fs::remove_dir(folder.path().join("status.json.tmp")).unwrap();
        board.show(&status).unwrap();
        assert!(!file(folder.path()).is_symlink());
        assert_eq!(shown(folder.path()), status);
    }
}
