//! Who takes part: the programs in one folder, each asked what it is.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rivals_course::program::{Description, next_answer};
use serde::{Deserialize, Serialize};

/// The programs, in the order of the report.
pub(crate) const PROGRAMS: &[&str] =
    &["raw", "hivemind", "iceoryx2", "aeron", "zenoh", "zeromq", "ringfire", "shmem-ipc", "ipc-channel"];

/// One contender that can run.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) program: PathBuf,
    pub(crate) description: Description,
}

impl Contender {
    pub(crate) fn runs(&self, case: &str) -> bool {
        self.description.cases.iter().any(|(name, answer)| name == case && answer.is_ok())
    }
}

/// A program that does not take part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NotRunning {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// Everybody.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) contenders: Vec<Contender>,
    pub(crate) not_running: Vec<NotRunning>,
}

impl Field {
    /// Asks every program in `folder`; a program that is not there and for which no reason is known says so
    /// itself.
    pub(crate) fn assemble(folder: &Path, mut not_running: Vec<NotRunning>) -> Field {
        let mut contenders = Vec::new();
        for &name in PROGRAMS {
            if not_running.iter().any(|absent| absent.name == name) {
                continue;
            }
            let program = folder.join(name);
            match descriptions(&program) {
                Ok(found) => contenders.extend(
                    found.into_iter().map(|description| Contender { program: program.clone(), description }),
                ),
                Err(reason) => not_running.push(NotRunning { name: name.to_owned(), reason }),
            }
        }
        Field { contenders, not_running }
    }

    pub(crate) fn descriptions(&self) -> Vec<Description> {
        self.contenders.iter().map(|contender| contender.description.clone()).collect()
    }
}

fn descriptions(program: &Path) -> Result<Vec<Description>, String> {
    if !program.exists() {
        return Err("there is no such program; build it with benches/rivals/run".to_owned());
    }
    let output = Command::new(program)
        .arg("list")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("it does not start: {error}"))?;
    let answer = next_answer(&mut BufReader::new(&output.stdout[..])).map_err(|error| error.to_string())?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let answer = answer.ok_or_else(|| format!("it does not start ({}): {}", output.status, said()))?;
    serde_json::from_str(&answer).map_err(|error| format!("it is of another build: {error}"))
}
