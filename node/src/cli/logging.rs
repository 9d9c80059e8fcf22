//! Where the node's own events go: standard error, filtered, as lines or as JSON.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use macula_proto::Code;
use tracing_subscriber::EnvFilter;

use super::failure::Failure;

/// The flags of the commands that run a node in this process.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Logging {
    /// Which events are logged: error, warn, info, debug, trace, or a filter such as
    /// info,macula_node::discovery=debug
    #[arg(long, value_name = "FILTER", env = "MACULA_LOG", help_heading = "Logging")]
    log: Option<String>,
    /// How they are written, to standard error
    #[arg(long, value_enum, default_value_t, help_heading = "Logging")]
    log_format: LogFormat,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl Logging {
    /// Starts logging; without a flag, and without `MACULA_LOG`, what `otherwise` says.
    ///
    /// # Errors
    /// `invalid_config` for a filter that cannot be read.
    pub(crate) fn start(&self, otherwise: &str) -> Result<(), Failure> {
        let filter = self.filter(otherwise)?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        let color = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // Fails only where a subscriber is set already, as in a test: that one stays.
        let _ = match self.log_format {
            LogFormat::Text => builder.with_ansi(color).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        Ok(())
    }

    fn filter(&self, otherwise: &str) -> Result<EnvFilter, Failure> {
        let text = self.log.as_deref().filter(|text| !text.trim().is_empty()).unwrap_or(otherwise);
        EnvFilter::builder().parse(text).map_err(|error| {
            let because = format!("{text:?} is not a filter: {error}");
            Failure::new(Code::InvalidConfig, "read the log filter", because).with_next(
                "Write a level, as in `--log debug`, or a filter: `--log info,macula_node=debug`.",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(log: Option<&str>) -> Result<String, Failure> {
        let logging = Logging { log: log.map(str::to_owned), ..Logging::default() };
        logging.filter("warn").map(|filter| filter.to_string())
    }

    #[test]
    fn the_flag_counts_and_an_empty_one_does_not() {
        assert_eq!(filter(Some("debug")).as_deref(), Ok("debug"));
        assert_eq!(filter(Some(" ")).as_deref(), Ok("warn"));
        assert_eq!(filter(None).as_deref(), Ok("warn"));
    }

    #[test]
    fn a_wrong_filter_is_refused_with_what_was_written() {
        let failure = filter(Some("macula_node=loud")).unwrap_err();
        assert_eq!(failure.code, "invalid_config");
        assert!(failure.because.contains("macula_node=loud"));
    }
}
