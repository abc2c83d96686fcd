//! The references: what the machine and the kernel cost, with nothing around them. Not rivals; nobody could
//! use them as they are.

mod futex;
mod kernel;
mod line;
mod mapping;
mod ring;

use std::process::ExitCode;

use rivals_course::program::{Entry, main as program};

fn main() -> ExitCode {
    program(&[
        Entry::of::<line::Line>(),
        Entry::of::<ring::Bare<1024>>(),
        Entry::of::<ring::Bare<256>>(),
        Entry::of::<ring::Copied>(),
        Entry::of::<futex::Futex>(),
        Entry::of::<kernel::Pipe>(),
        Entry::of::<kernel::UnixSocket>(),
        Entry::of::<kernel::Tcp>(),
    ])
}
