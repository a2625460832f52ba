//! Log lines: for people on a terminal, for machines otherwise. Never a secret, never a record's content.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{CoreConfig, LogFormat};

/// Starts logging to standard error, and logs panics in the same form. Only the first call has an effect.
pub fn start(config: &CoreConfig) {
    let terminal = std::io::stderr().is_terminal();
    // The filter was parsed with the configuration, so this one parses too.
    let filter = EnvFilter::try_new(config.log.as_str()).unwrap_or_default();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that logging was started before: by a test, or by a program that embeds us.
    let _ = match format(config, terminal) {
        LogFormat::Pretty => lines.with_ansi(terminal).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
}

fn format(config: &CoreConfig, terminal: bool) -> LogFormat {
    config.log_format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json })
}

/// The place is enough to find a bug. A message that was put together at run time may quote a record: it stays out.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
    error!(place, message, "panic: this is a bug, please report it with this line");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Section;

    #[test]
    fn people_sit_at_terminals_unless_told_otherwise() {
        let config = CoreConfig::from_pairs(&[("CONNECT_NAME", "orders")]).expect("valid");
        assert_eq!(format(&config, true), LogFormat::Pretty);
        assert_eq!(format(&config, false), LogFormat::Json);
        for (text, chosen) in [("pretty", LogFormat::Pretty), ("json", LogFormat::Json)] {
            let pairs = [("CONNECT_NAME", "orders"), ("CONNECT_LOG_FORMAT", text)];
            let config = CoreConfig::from_pairs(&pairs).expect("valid");
            assert_eq!([format(&config, true), format(&config, false)], [chosen, chosen]);
        }
    }
}
