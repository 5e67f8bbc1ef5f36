//! The program `backstitch`. Everything it does is in the library's [`backstitch::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    backstitch::cli::main(std::env::args_os())
}
