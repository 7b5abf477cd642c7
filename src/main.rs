//! The program `dmap`: parse, run one command, turn an error into one sentence and an exit code.

use clap::Parser;
use dmap::cli::{Arguments, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    // A reader that has seen enough (`dmap plan ... | head`) ends the program quietly.
    sigpipe::reset();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dmap: {error:#}");
            let bad_input = error.downcast_ref::<dmap::Error>().is_none_or(dmap::Error::is_bad_input);
            ExitCode::from(if bad_input { 2 } else { 1 })
        }
    }
}
