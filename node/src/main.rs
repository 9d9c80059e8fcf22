//! The `macula-node` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    macula_node::supervise::install_hook();
    #[cfg(feature = "failpoints")]
    if let Err(error) = macula_node::supervise::arm_from_environment() {
        eprintln!("macula-node: {error}");
        return macula_node::cli::Exit::Usage.into();
    }
    macula_node::cli::main(std::env::args_os())
}
