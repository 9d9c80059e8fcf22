//! The command line: what each command is told, what it prints, and with which code it ends.
//!
//! | module | holds |
//! | --- | --- |
//! | `publish`, `subscribe`, `call`, `serve`, `status` | the commands that ask a node over HTTP |
//! | `dev`, `run`, `ping` | those that are a node themselves: their flags; the node is elsewhere |
//! | `authority`, `explain` | those that need no node |
//! | `client`, `sse`, `body` | HTTP as a client |
//! | `exit`, `failure`, `output`, `dates`, `logging` | how all of them speak |

mod authority;
mod body;
mod call;
mod client;
mod dates;
mod dev;
mod exit;
mod explain;
mod failure;
mod logging;
mod output;
mod ping;
mod publish;
mod run;
mod serve;
mod sse;
mod status;
mod subscribe;

use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use macula_config::period;

pub use client::NodeUrl;
pub use exit::Exit;
pub use output::Format;

use client::Node;
use failure::{Failure, Stop};

/// One node of a Macula mesh, and the tool to use it: publish, subscribe, call and serve.
#[derive(Debug, Parser)]
#[command(name = "macula-node", version, propagate_version = true, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Global {
    /// Where the node's HTTP API is
    #[arg(
        long,
        global = true,
        env = "MACULA_URL",
        default_value = "http://127.0.0.1:7780",
        help_heading = "Global options"
    )]
    url: NodeUrl,
    /// How results are printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        help = "How results are printed: text, or json (a contract)",
        help_heading = "Global options"
    )]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a whole mesh in one process, for learning and for tests
    Dev(dev::Dev),
    /// Says what an error code means and what to do
    Explain(explain::Explain),
    /// Publishes a message
    #[command(name = "pub")]
    Publish(publish::Publish),
    /// Prints messages as they arrive
    #[command(name = "sub")]
    Subscribe(subscribe::Subscribe),
    /// Calls a procedure and prints its answer
    Call(call::Call),
    /// Answers the calls of a procedure with a command
    Serve(serve::Serve),
    /// Shows what the node knows of itself and of the mesh
    Status(status::Query),
    /// Runs one node, as containers do
    Run(run::Run),
    /// Dials a node and prints the round trip, or why it was refused
    Ping(ping::Ping),
    /// Makes a mesh's authority, and the certificates of its nodes
    Authority(authority::AuthorityArgs),
}

/// The commands as `--help` groups them; a test knows when one is missing.
const GROUPS: &[(&str, &[&str])] = &[
    ("Learn", &["dev", "explain"]),
    ("Use a node", &["pub", "sub", "call", "serve", "status"]),
    ("Operate a mesh", &["run", "ping", "authority"]),
];

/// Reads the command line, does what it says on a runtime of its own, and gives the exit code.
///
/// `main` is no more than this: `macula_node::cli::main(std::env::args_os())`.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure. A closed pipe is none either.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.number()));
        }
    };
    let format = cli.global.output;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(WORKERS).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = anyhow::Error::new(error);
            let failure = Failure::from_error(&error, "start the runtime");
            failure.print(format);
            return failure.exit.into();
        }
    };
    let code = runtime.block_on(run(cli));
    // A thread that still reads a terminal must not keep the process.
    runtime.shutdown_background();
    code
}

/// Threads beside that of `main` and the data plane's: none is busy for long, and each costs memory,
/// whatever the number of a machine's cores.
const WORKERS: usize = 2;

/// Reads a command line.
///
/// # Errors
/// What clap has to say: usage errors, and also help and version.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(args)?)
}

/// Does what a command line says, prints failures, and gives the exit code. To be run on a
/// multi-threaded runtime.
pub async fn run(cli: Cli) -> ExitCode {
    let format = cli.global.output;
    match dispatch(cli).await {
        Ok(code) => code,
        Err(Stop::ReaderGone) => Exit::Ok.into(),
        Err(Stop::Failed(failure)) => {
            failure.print(format);
            failure.exit.into()
        }
    }
}

async fn dispatch(cli: Cli) -> Result<ExitCode, Stop> {
    let Cli { global: Global { url, output: format }, command } = cli;
    let node = || Node::new(url);
    let exit = match command {
        Command::Dev(args) => {
            args.logging.start("warn")?;
            let done = Box::pin(crate::dev::run(args.options(format))).await;
            return done.map_err(|error| Failure::from_error(&error, "run a mesh").into());
        }
        Command::Run(args) => {
            let config = args.config()?;
            args.logging.start(config.log.as_deref().unwrap_or("info"))?;
            if args.check {
                output::line(format_args!("valid: {} of {}", who(&config), config.mesh))?;
                return Ok(Exit::Ok.into());
            }
            let tried = format!("run {}", who(&config));
            let done = Box::pin(crate::run::run(config)).await;
            return done.map_err(|error| Failure::from_error(&error, &tried).into());
        }
        Command::Ping(args) => {
            args.logging.start("warn")?;
            Box::pin(ping::run(args, &node(), format)).await?
        }
        Command::Publish(args) => publish::run(args, &node(), format).await?,
        Command::Subscribe(args) => subscribe::run(args, &node(), format).await?,
        Command::Call(args) => call::run(args, &node(), format).await?,
        Command::Serve(args) => Box::pin(serve::run(args, &node())).await?,
        Command::Status(args) => status::run(args, &node(), format).await?,
        Command::Explain(args) => explain::run(&args, format)?,
        Command::Authority(args) => authority::run(args, format)?,
    };
    Ok(exit.into())
}

/// The node of a configuration, in words.
fn who(config: &macula_config::Config) -> String {
    let name = config.name.as_ref().map(|name| format!(" {name}"));
    format!("{}{}", config.role, name.unwrap_or_default())
}

/// The command line with the groups of `--help`, made from the commands' own words.
fn command() -> clap::Command {
    let command = Cli::command();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        // Writing into a String does not fail.
        let _ = writeln!(groups, "{title}:");
        for name in *names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(groups, "  {name:<10} {about}");
        }
        groups.push('\n');
    }
    let mut codes = String::new();
    for exit in Exit::ALL {
        let _ = writeln!(codes, "  {}  {}", exit.number(), exit.meaning());
    }
    let after = format!(
        "Exit codes:\n{codes}\n\
         Environment:\n  MACULA_URL  the node's HTTP API, as --url\n  MACULA_LOG  which events are \
         logged, as --log\n  NO_COLOR    no colors\n\n\
         With -o json failures go to standard output as {{\"error\": {{\"code\", \"title\", \"tried\", \
         \"because\",\n\"next\", \"more\", \"retryable\", \"exit\"}}}}; a wrong command line is told as \
         text.\n\n\
         First steps:\n  macula-node dev                      # then, in another terminal:\n  \
         macula-node sub 'hello.**'\n  macula-node pub hello.world 'hi there'\n  macula-node COMMAND \
         --help           # every command has examples\n"
    );
    command
        .help_template(format!(
            "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}"
        ))
        .after_help(after)
}

/// A length of time on the command line, more than none.
fn positive_period(text: &str) -> Result<Duration, String> {
    match period::parse(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        Ok(length) if length > LONGEST => Err("it is longer than a hundred years".to_owned()),
        Ok(length) => Ok(length),
        Err(error) => Err(error.to_string()),
    }
}

/// Longer than anybody waits and than any certificate lives; clocks can still count it.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// An address that only this machine reaches.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(_) => Err("whoever reaches the API may publish as this node, so it is loopback: \
                      127.0.0.1:PORT or [::1]:PORT"
            .to_owned()),
        Err(_) => Err("it is written IP:PORT, as in 127.0.0.1:7780".to_owned()),
    }
}

#[cfg(test)]
mod tests;
