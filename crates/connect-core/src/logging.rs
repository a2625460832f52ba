//! Log lines: for people on a terminal, for machines otherwise. Never a secret, never a record's content.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{CoreConfig, LogFormat};

/// Starts logging to standard error, and logs panics in the same form. Only the first call has an effect.
pub fn start(config: &CoreConfig) {
    let terminal = std::io::stderr().is_terminal();
    let format = config.log_format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json });
    // The filter was parsed with the configuration, so this one parses too.
    let filter = EnvFilter::try_new(config.log.as_str()).unwrap_or_default();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that logging was started before: by a test, or by a program that embeds us.
    let _ = match format {
        LogFormat::Pretty => lines.with_ansi(terminal).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
}

/// The place is enough to find a bug. A message that was put together at run time may quote a record: it stays out.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
    error!(place, message, "panic: this is a bug, please report it with this line");
}
