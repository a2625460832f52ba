//! The command line and the exit codes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use futures::FutureExt;
use tracing::{error, info};

use crate::config::{Configuration, Layers, Setting, effective, reference};
use crate::connector::Connector;
use crate::offsets::{self, Report, Reset, Selection};
use crate::settings::Start;
use crate::supervisor::RunEnd;
use crate::{check, logging, run};

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is done, or drained.
    Done = 0,
    /// A person must mend something.
    Fatal = 1,
    /// A person must change the configuration or the command line.
    Configuration = 64,
    /// What was in hand was not finished in time; it will be read again.
    DrainTimeout = 75,
}

#[derive(Parser)]
#[command(about = "Moves records from Kafka into a store. Configured by its environment alone.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Moves records until it is stopped: what happens without a command
    Run,
    /// Checks the configuration, Kafka, the topics and the store: one line each
    Check,
    /// Shows the configuration in force, secrets hidden, and where each value was set
    Config,
    /// Shows where the connector stands, or puts it elsewhere
    #[command(subcommand)]
    Offsets(Offsets),
}

#[derive(Subcommand)]
enum Offsets {
    /// Shows for each partition what is committed in Kafka, what is stored with the data, and what the partition holds
    Show {
        /// Only this topic, or some of its partitions as in `orders:0,3`; may be given several times
        #[arg(long = "topic", value_name = "TOPIC[:PARTITIONS]")]
        topics: Vec<Selection>,
    },
    /// Sets the offset in Kafka and the one stored with the data. Refused while processes of the connector run
    Reset {
        /// `earliest`, `latest`, `timestamp:2026-01-31T12:00:00Z` (also a date, or milliseconds since 1970), or `offset:42`
        #[arg(long, value_name = "PLACE", value_parser = place)]
        to: Start,
        /// Only this topic, or some of its partitions as in `orders:0,3`; may be given several times
        #[arg(long = "topic", value_name = "TOPIC[:PARTITIONS]")]
        topics: Vec<Selection>,
        /// Says what would be done, and does nothing
        #[arg(long)]
        dry_run: bool,
        /// Lets a store write records again that it would refuse as not newer than what it holds; says which CONNECT_EPOCH
        /// to set
        #[arg(long)]
        new_epoch: bool,
    },
}

fn place(text: &str) -> Result<Start, String> {
    Start::parse(text)
        .map_err(|problem| if problem.is_empty() { format!("expected {}", Start::expected()) } else { problem })
}

/// The `main` of a connector's binary.
pub fn main<C: Connector>() -> ExitCode {
    let exit = execute::<C>(std::env::args_os(), &Layers::from_process(), &mut io::stdout(), &mut io::stderr());
    ExitCode::from(exit as u8)
}

/// The same with everything given that a process has around it: for tests and for programs that embed a connector.
/// Runs a tokio runtime, so it must not be called inside one.
pub fn execute<C: Connector>(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    layers: &Layers,
    output: &mut impl Write,
    errors: &mut impl Write,
) -> Exit {
    // Nothing can be done about a terminal that went away: `let _` from here on.
    let command = match parse::<C>(arguments) {
        Ok(arguments) => arguments.command.unwrap_or(Command::Run),
        Err(error) if error.use_stderr() => {
            let _ = write!(errors, "{}", error.render());
            return Exit::Configuration;
        }
        Err(help) => {
            let _ = write!(output, "{}", help.render());
            return Exit::Done;
        }
    };
    if let Command::Config = command {
        let _ = show::<C>(layers, output);
    }
    let configuration = match Configuration::<C::Config>::load(layers) {
        Ok(configuration) => configuration,
        Err(problems) => {
            let _ = writeln!(errors, "{problems}\n`{} --help` tells of every variable", C::NAME);
            return Exit::Configuration;
        }
    };
    let end = match command {
        Command::Config => return Exit::Done,
        Command::Check => {
            let _ = writeln!(output, "configuration: ok");
            logging::start(&configuration.core);
            on_runtime(configuration.core.threads, check::check::<C>(configuration)).map(|lines| report(&lines, output))
        }
        Command::Offsets(command) => {
            logging::start(&configuration.core);
            offsets::<C>(configuration, command).map(|report| {
                let _ = write!(output, "{}", report.text);
                if report.good { Exit::Done } else { Exit::Fatal }
            })
        }
        Command::Run => {
            logging::start(&configuration.core);
            on_runtime(configuration.core.threads, run::run::<C>(configuration)).and_then(|end| end).map(ended)
        }
    };
    end.unwrap_or_else(|message| {
        error!("{message}");
        Exit::Fatal
    })
}

fn parse<C: Connector>(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Arguments, clap::Error> {
    let variables = Configuration::<C::Config>::variables();
    let command = Arguments::command()
        .name(C::NAME)
        .version(C::VERSION)
        .after_help("--help tells of every environment variable")
        .after_long_help(reference::help(&variables));
    Arguments::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// A panic ends in a message and an exit code like any other error.
fn on_runtime<T>(threads: NonZeroUsize, work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads.get()).enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime can't be started: {error}"))?;
    let result = runtime.block_on(AssertUnwindSafe(work).catch_unwind());
    // A look-up of a name that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map_err(|_| "the main task panicked".to_owned())
}

fn offsets<C: Connector>(configuration: Configuration<C::Config>, command: Offsets) -> Result<Report, String> {
    match command {
        Offsets::Show { topics } => on_runtime(configuration.core.threads, offsets::show::<C>(configuration, topics)),
        Offsets::Reset { to, topics, dry_run, new_epoch } => on_runtime(
            configuration.core.threads,
            offsets::reset::<C>(configuration, Reset { to, selected: topics, dry_run, new_epoch }),
        ),
    }
    .and_then(|done| done)
}

fn ended(end: RunEnd) -> Exit {
    match end {
        RunEnd::Finished => {
            info!("everything is written that was there at the start");
            Exit::Done
        }
        RunEnd::Drained => {
            info!("drained");
            Exit::Done
        }
        RunEnd::DrainTimeout => Exit::DrainTimeout,
    }
}

fn report(lines: &[check::Line], output: &mut impl Write) -> Exit {
    let mut exit = Exit::Done;
    for line in lines {
        let _ = match &line.result {
            Ok(found) => writeln!(output, "{}: ok: {found}", line.what),
            Err(problem) => {
                exit = Exit::Fatal;
                writeln!(output, "{}: failed: {problem}", line.what)
            }
        };
    }
    exit
}

fn show<C: Connector>(layers: &Layers, output: &mut impl Write) -> io::Result<()> {
    for row in effective(layers, &Configuration::<C::Config>::variables()) {
        match row.value {
            Some(value) => writeln!(output, "{}={}  # {}", row.name, value.escape_debug(), row.origin)?,
            None => writeln!(output, "# {}: {}", row.name, row.origin)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_exit_code() {
        let codes = [RunEnd::Finished, RunEnd::Drained, RunEnd::DrainTimeout].map(|end| ended(end) as u8);
        assert_eq!(codes, [0, 0, 75]);
        assert_eq!([Exit::Fatal as u8, Exit::Configuration as u8], [1, 64]);
    }
}
