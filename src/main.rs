//! The program `dmap`: parse, run one command, turn an error into one sentence and an exit code.

use clap::Parser;
use dmap::cli::{Arguments, run};
use dmap::error::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A reader that has seen enough (`dmap plan ... | head`) ends the program quietly.
    sigpipe::reset();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            // Where stderr can't take the sentence, the exit code is left.
            let _ = writeln!(std::io::stderr(), "dmap: {error:#}");
            // What is not an error of the library was about flags.
            let kind = error.downcast_ref::<dmap::Error>().map_or(ErrorKind::BadInput, dmap::Error::kind);
            ExitCode::from(kind.exit_code())
        }
    }
}
