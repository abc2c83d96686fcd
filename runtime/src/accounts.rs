//! The names of users and groups of this machine.
//!
//! Read from `/etc/passwd` and `/etc/group`, and not through the C library's name services: those may wait
//! for the network, load code into the process that hosts the root, and cannot be bounded. Who is known to a
//! directory service alone is named in a policy by number.
use std::fs::File;
use std::io::Read;
use std::path::Path;

use hivemind_core::policy::Accounts;

/// Most bytes that are read of one of the files.
const MAX_BOOK_BYTES: u64 = 4 << 20;

/// Those of this machine. A file that cannot be read knows nobody.
#[must_use]
pub fn accounts_of_this_machine() -> Accounts {
    Accounts::parse(&book(Path::new("/etc/passwd")), &book(Path::new("/etc/group")))
}

fn book(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BOOK_BYTES).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!(%error, path = %path.display(), "cannot read the names of users or groups");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
