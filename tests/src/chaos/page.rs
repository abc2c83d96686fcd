//! What a victim says of itself and the harness still knows when the victim is dead.
//!
//! ```text
//! words   0 node   1 stage   2 begun   3 done
//! victim  begun = n + batch ▸ commits batch messages ▸ done = n + batch ▸ begun = …
//! ```
//! A memory file of the harness, which the victim opens through `/proc` and writes word by word with
//! `pwrite`: whatever it wrote before SIGKILL stays written, and a system call that writes 8 bytes has
//! happened or has not. So when the victim is dead, `done <= committed <= begun`; with batches of one message
//! the two differ by one at most.

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the victim says, a word each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The life of its node, once it has joined.
    Node,
    /// How far it is; what the numbers mean is the case's own.
    Stage,
    /// Most messages that it may have committed.
    Begun,
    /// Least messages that it has committed.
    Done,
}

/// The file.
#[derive(Debug)]
pub struct Page(File);

impl Page {
    /// A new one, all zeros. The harness keeps it.
    ///
    /// # Panics
    /// If there is no memory for it.
    pub fn create() -> Page {
        let page =
            Page(File::from(memfd_create("chaos-page", MFdFlags::MFD_CLOEXEC).expect("one more descriptor")));
        page.clear();
        page
    }

    /// Where its victim finds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// That of the harness, opened by the victim.
    ///
    /// # Panics
    /// If the harness is gone.
    pub fn open(path: &Path) -> Page {
        Page(OpenOptions::new().read(true).write(true).open(path).expect("the harness keeps it open"))
    }

    /// For the next victim.
    pub fn clear(&self) {
        for word in [Word::Node, Word::Stage, Word::Begun, Word::Done] {
            self.write(word, 0);
        }
    }

    /// Says something.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write(&self, word: Word, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), word as u64 * 8).expect("a memory file takes 8 bytes");
    }

    /// Hears it.
    ///
    /// # Panics
    /// If the file cannot be read.
    pub fn read(&self, word: Word) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, word as u64 * 8).expect("all words were written");
        u64::from_le_bytes(bytes)
    }
}
