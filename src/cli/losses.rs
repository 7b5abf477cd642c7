//! Inputs that a run could not restore.

use crate::error::{Error, ErrorKind, Result};
use std::process::ExitCode;

/// How many inputs were lost: by their own fault or the flags', and by the machine's.
#[derive(Default)]
pub(super) struct Losses {
    bad: usize,
    failed: usize,
}

impl Losses {
    /// Reports and counts the inputs `names` that an error loses. Gives its message. Returns the
    /// error if it ends the run: after Ctrl-C, or if the device has failed.
    pub fn add(&mut self, names: &[String], e: Error) -> Result<String> {
        let who = names.join(", ");
        match (&e, e.kind()) {
            (Error::Failed(reason), _) => return Err(Error::Failed(format!("{who}: {reason}"))),
            (_, ErrorKind::Cancelled) => return Err(e),
            (_, ErrorKind::BadInput) => self.bad += names.len(),
            (_, ErrorKind::Failure) => self.failed += names.len(),
        }
        let said = e.to_string();
        complain!("dmap: {}", if said.contains(&who) { said.clone() } else { format!("{who}: {said}") });
        Ok(said)
    }

    /// The number of inputs that were lost.
    pub fn count(&self) -> usize {
        self.bad + self.failed
    }

    /// 0 if none was lost, 2 if only inputs or flags were at fault, 1 if anything else failed.
    pub fn exit_code(&self) -> ExitCode {
        match (self.bad, self.failed) {
            (0, 0) => ExitCode::SUCCESS,
            (_, 0) => ExitCode::from(ErrorKind::BadInput.exit_code()),
            _ => ExitCode::from(ErrorKind::Failure.exit_code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_device_ends_the_run() {
        let mut losses = Losses::default();
        let failed = losses.add(&["a.png".into()], Error::Failed("no kernel".into()));
        assert!(matches!(failed, Err(Error::Failed(said)) if said == "a.png: no kernel"));
        assert!(losses.add(&["b.png".into()], Error::Memory("none left".into())).is_ok());
        assert_eq!(losses.count(), 1);
    }
}
