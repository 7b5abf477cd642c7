//! The program `dmap`: parses flags, runs one command, and turns an error into one sentence and an
//! exit code.

use clap::Parser;
use dmap::cli::{Arguments, run};
use dmap::error::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A reader that closes the pipe early (`dmap plan ... | head`) ends the program without a
    // message.
    sigpipe::reset();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            // If stderr can't take the sentence, the exit code still tells of the failure.
            let _ = writeln!(std::io::stderr(), "dmap: {error:#}");
            // An error that is not from the library concerns flags.
            let kind = error.downcast_ref::<dmap::Error>().map_or(ErrorKind::BadInput, dmap::Error::kind);
            ExitCode::from(kind.exit_code())
        }
    }
}
