//! The whole binary.
fn main() -> std::process::ExitCode {
    connect_core::main::<custom_sink::Sqlite>()
}
