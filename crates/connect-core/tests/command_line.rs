//! The command line: what it prints, and how it ends.

use connect_core::config::{Layers, SecretString, Section};
use connect_core::{Batch, Connector, Context, Exit, Outcome, Record, Rejection, Sink, SinkError, execute, section};

section! {
    /// How records get into the void.
    pub struct VoidConfig = "VOID" {
        /// Password of the void.
        pub password: Option<SecretString>,
        /// What the sink does when it is made.
        pub on_start: String = "nothing",
    }
}

struct Void {
    password: Option<SecretString>,
}

impl Sink for Void {
    type Op = ();

    fn prepare(&self, _: &Record) -> Result<Option<()>, Rejection> {
        Ok(None)
    }

    fn target<'a>(&self, (): &'a ()) -> Option<&'a [u8]> {
        None
    }

    async fn write(&self, _: &Batch<()>) -> Result<Outcome, SinkError> {
        Ok(Outcome::written())
    }

    async fn check(&self) -> Result<(), SinkError> {
        match self.password {
            Some(_) => Ok(()),
            None => Err(SinkError::fatal("the void wants CONNECT_VOID_PASSWORD")),
        }
    }
}

impl Connector for Void {
    type Config = VoidConfig;
    type Sink = Self;
    const NAME: &'static str = "sink-void";

    async fn sink(config: VoidConfig, _: Context) -> Result<Self, String> {
        match config.on_start.as_str() {
            "panic" => panic!("the void stares back"),
            "fail" => Err("the void is closed".to_owned()),
            _ => Ok(Self { password: config.password }),
        }
    }
}

/// A port of a broker that nobody listens on.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

fn valid() -> Vec<(String, String)> {
    [
        ("CONNECT_NAME", "orders"),
        ("CONNECT_KAFKA_BROKERS", &nobody()),
        ("CONNECT_KAFKA_TOPICS", "orders"),
        ("CONNECT_ADMIN_LISTEN", "127.0.0.1:0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn with(name: &str, value: &str) -> Vec<(String, String)> {
    [valid(), vec![(name.to_owned(), value.to_owned())]].concat()
}

fn call(arguments: &[&str], variables: Vec<(String, String)>) -> (Exit, String, String) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let arguments = ["sink-void"].iter().chain(arguments);
    let exit = execute::<Void>(arguments, &Layers::from_environment(variables), &mut output, &mut errors);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (exit, text(output), text(errors))
}

#[test]
fn help_names_every_variable_and_version_the_version() {
    let (exit, output, _) = call(&["--help"], vec![]);
    assert_eq!(exit, Exit::Done);
    for variable in VoidConfig::variables() {
        assert!(output.contains(&variable.name), "{output}");
    }
    for name in ["CONNECT_NAME", "CONNECT_KAFKA_SASL_PASSWORD_FILE", "CONNECT_DEAD_LETTERS_REPLICATION"] {
        assert!(output.contains(name), "{output}");
    }
    let (exit, output, _) = call(&["--version"], vec![]);
    assert_eq!((exit, output), (Exit::Done, format!("sink-void {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_command_that_does_not_exist_is_a_mistake_of_configuration() {
    let (exit, output, errors) = call(&["rnu"], valid());
    assert_eq!((exit, output.as_str()), (Exit::Configuration, ""));
    assert!(errors.contains("'rnu'") && errors.contains("Usage: sink-void"), "{errors}");
}

#[test]
fn every_command_refuses_a_wrong_configuration_and_tells_all_of_it() {
    let wrong = || {
        [("CONNECT_NAM", "orders"), ("CONNECT_MEMORY", "lots"), ("CONNECT_KAFKA_SASL_PASSWORD", "hunter2")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    };
    for arguments in [&[][..], &["run"], &["check"], &["config"]] {
        let (exit, output, errors) = call(arguments, wrong());
        assert_eq!(exit, Exit::Configuration, "{errors}");
        for part in [
            "has 6 problems",
            "CONNECT_NAME is required",
            "CONNECT_MEMORY (environment): expected a size",
            "CONNECT_KAFKA_BROKERS is required",
            "CONNECT_KAFKA_TOPICS is required",
            "CONNECT_KAFKA_SASL_PASSWORD (environment): users log in with",
            "CONNECT_NAM (environment): there is no such variable: did you mean CONNECT_NAME?",
            "sink-void --help",
        ] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
        assert!(!format!("{output}{errors}").contains("hunter2"), "{output}{errors}");
    }
}

#[test]
fn config_shows_what_is_in_force_and_no_secret() {
    let (exit, output, errors) = call(&["config"], with("CONNECT_VOID_PASSWORD", "hunter2"));
    assert_eq!((exit, errors.as_str()), (Exit::Done, ""));
    for line in [
        "CONNECT_NAME=orders  # environment",
        "CONNECT_MEMORY=24MiB  # default",
        "# CONNECT_RATE: not set",
        "CONNECT_VOID_PASSWORD=(secret)  # environment",
        "CONNECT_VOID_ON_START=nothing  # default",
    ] {
        assert!(output.lines().any(|other| other == line), "{line}: {output}");
    }
    assert!(!output.contains("hunter2"), "{output}");
}

#[test]
fn check_has_a_line_for_each_thing() {
    let (exit, output, _) = call(&["check"], with("CONNECT_VOID_PASSWORD", "hunter2"));
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(exit, Exit::Fatal, "{output}");
    assert_eq!(lines.len(), 4, "{output}");
    assert_eq!(lines[0], "configuration: ok");
    assert!(lines[1].starts_with("Kafka: failed: ") && lines[1].contains("CONNECT_KAFKA_BROKERS"), "{output}");
    assert_eq!(lines[2], "topics: failed: Kafka could not be asked");
    assert_eq!(lines[3], "store: ok: it can be used");

    let (_, output, _) = call(&["check"], valid());
    assert!(output.ends_with("store: failed: the void wants CONNECT_VOID_PASSWORD\n"), "{output}");
}

#[test]
fn what_stops_a_run_is_fatal() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for variables in [
        with("CONNECT_VOID_ON_START", "fail"),
        with("CONNECT_VOID_ON_START", "panic"),
        with("CONNECT_ADMIN_LISTEN", &address),
    ] {
        assert_eq!(call(&["run"], variables).0, Exit::Fatal);
    }
}
