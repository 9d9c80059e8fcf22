//! The `macula-node` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    macula_node::cli::main(std::env::args_os())
}
