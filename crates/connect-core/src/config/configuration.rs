//! The whole configuration of a connector: the sections that all have, and its own.

use super::section::find;
use super::{
    AssignmentChoice, CoreConfig, DeadLettersChoice, KafkaConfig, Layers, Problems, Reader, Section, Shard, Topics,
    Variable,
};

/// The configuration of a connector whose own section is `C`.
#[derive(Clone, Debug)]
pub struct Configuration<C> {
    /// What every connector has.
    pub core: CoreConfig,
    /// What is read.
    pub kafka: KafkaConfig,
    /// How the store is written.
    pub sink: C,
}

impl<C: Section> Configuration<C> {
    /// Reads all sections.
    ///
    /// # Errors
    /// Everything that is wrong, in one go.
    pub fn load(layers: &Layers) -> Result<Self, Problems> {
        let mut reader = Reader::new(layers);
        let core = CoreConfig::read(&mut reader);
        let kafka = KafkaConfig::read(&mut reader);
        let sink = C::read(&mut reader);
        refuse_own_dead_letters(&mut reader);
        refuse_shard_of_a_group(&mut reader);
        reader.refuse_unknown(&Self::variables());
        let problems = reader.finish();
        match (core, kafka, sink) {
            (Some(core), Some(kafka), Some(sink)) if problems.is_empty() => Ok(Self { core, kafka, sink }),
            _ => Err(problems),
        }
    }

    /// Every variable of the connector.
    pub fn variables() -> Vec<Variable> {
        [CoreConfig::variables(), KafkaConfig::variables(), C::variables()].concat()
    }
}

/// A connector that reads its own dead letters would write them over and over.
fn refuse_own_dead_letters(reader: &mut Reader<'_>) {
    let choice = reader.peek::<CoreConfig, DeadLettersChoice>("dead_letters");
    let topics = reader.peek::<KafkaConfig, Topics>("topics");
    let (Some(DeadLettersChoice::Topic(topic)), Some(topics)) = (choice, topics) else { return };
    if topics.contains(&topic) {
        let variables = [CoreConfig::variable("dead_letters"), KafkaConfig::variable("topics")];
        let message = format!("the dead-letter topic {topic:?} is read too: its records would come back for ever");
        reader.conflict_of(&variables.into_iter().flatten().collect::<Vec<_>>(), &message);
    }
}

/// In a group a shard would do nothing: who sets one believes that the others have the rest.
fn refuse_shard_of_a_group(reader: &mut Reader<'_>) {
    let shard = reader.peek::<CoreConfig, Option<Shard>>("shard").flatten();
    let assignment = reader.peek::<KafkaConfig, AssignmentChoice>("assignment");
    if shard.is_some() && assignment == Some(AssignmentChoice::Group) {
        let variables = [CoreConfig::variable("shard"), KafkaConfig::variable("assignment")];
        let message = "a shard is for processes without a group: set CONNECT_KAFKA_ASSIGNMENT=static, or no shard";
        reader.conflict_of(&variables.into_iter().flatten().collect::<Vec<_>>(), message);
    }
}

/// A variable with the value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Its name.
    pub name: String,
    /// The value as it may be shown, `None` when it has none.
    pub value: Option<String>,
    /// Where the value was set.
    pub origin: String,
}

/// What is in force for these variables, secrets hidden.
pub fn effective(layers: &Layers, variables: &[Variable]) -> Vec<Effective> {
    let mut rows = Vec::new();
    for variable in variables {
        let name = variable.name.clone();
        let row = match find(layers, variable) {
            Ok(Some(raw)) => {
                let value = raw.text.ok().map(|text| (variable.show)(&text));
                Effective { name, value, origin: raw.origin.to_string() }
            }
            _ => Effective { name, value: None, origin: "not set".to_owned() },
        };
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ExposeSecret, SecretString};

    crate::section! {
        /// A store.
        struct Store = "STORE" {
            /// Password.
            password: SecretString,
        }
    }

    fn load(pairs: &[(&str, &str)]) -> Result<Configuration<Store>, Problems> {
        Configuration::load(&Layers::from_environment(pairs.iter().copied()))
    }

    #[test]
    fn all_sections_are_read() {
        let pairs = [
            ("CONNECT_NAME", "orders"),
            ("CONNECT_KAFKA_BROKERS", "kafka:9092"),
            ("CONNECT_KAFKA_TOPICS", "orders"),
            ("CONNECT_STORE_PASSWORD", "007"),
            ("CONNECT_STORE_PORT", "tcp://10.0.0.1:80"),
        ];
        let configuration = load(&pairs).expect("valid");
        assert_eq!(configuration.core.name.as_str(), "orders");
        assert_eq!(configuration.kafka.topics.names(), ["orders"]);
        assert_eq!(configuration.sink.password.expose_secret(), "007");
    }

    #[test]
    fn an_empty_environment_names_all_that_is_required() {
        let problems = load(&[]).expect_err("nothing is set").to_string();
        for name in ["CONNECT_NAME", "CONNECT_KAFKA_BROKERS", "CONNECT_KAFKA_TOPICS", "CONNECT_STORE_PASSWORD"] {
            assert!(problems.contains(&format!("\n- {name} is required: expected ")), "{problems}");
        }
        assert!(problems.starts_with("the configuration has 4 problems:"), "{problems}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_the_only_thing_to_blame() {
        let problems = load(&[("CONNECT_CONFIG", "/nowhere.toml")]).expect_err("no file");
        assert_eq!(problems.lines().len(), 1, "{problems}");
        assert!(problems.lines()[0].starts_with("CONNECT_CONFIG (environment): "), "{problems}");
    }

    #[test]
    fn a_file_sets_what_the_environment_does_not() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let content = "name = 'file'\nmemory = '12MiB'\nraet = 5\n[kafka]\nbrokers = ['a:1', 'b:2']\ntopics = 't'\n";
        std::fs::write(file.path(), content).expect("writable");
        let path = file.path().to_str().expect("UTF-8");
        let pairs = [("CONNECT_CONFIG", path), ("CONNECT_NAME", "environment"), ("CONNECT_STORE_PASSWORD", "x")];
        let problems = load(&pairs).expect_err("a misspelt key");
        let expected = format!("CONNECT_RAET (file {path}): there is no such variable: did you mean CONNECT_RATE?");
        assert_eq!(problems.lines(), [expected]);

        std::fs::write(file.path(), content.replace("raet", "rate")).expect("writable");
        let configuration = load(&pairs).expect("valid");
        assert_eq!(configuration.core.name.as_str(), "environment");
        assert_eq!(configuration.core.memory_bytes(), 12 << 20);
        assert_eq!(configuration.core.rate.map(|rate| rate.get()), Some(5));
        assert_eq!(configuration.kafka.brokers.len(), 2);
        let rows = effective(&Layers::from_environment(pairs), &Configuration::<Store>::variables());
        let memory = rows.iter().find(|row| row.name == "CONNECT_MEMORY").expect("a row");
        assert_eq!(memory.origin, format!("file {path}"));
    }

    #[test]
    fn sections_are_checked_against_each_other_whatever_else_is_wrong() {
        let pairs = [("CONNECT_DEAD_LETTERS", "topic:a"), ("CONNECT_KAFKA_TOPICS", "b,a"), ("CONNECT_MEMORY", "much")];
        let problems = load(&pairs).expect_err("several").to_string();
        assert!(
            problems.contains(
                "CONNECT_DEAD_LETTERS (environment), CONNECT_KAFKA_TOPICS (environment): the dead-letter topic"
            )
        );
        assert!(problems.contains("CONNECT_MEMORY"), "{problems}");
    }

    #[test]
    fn a_shard_is_for_processes_without_a_group() {
        let pairs = [
            ("CONNECT_NAME", "orders"),
            ("CONNECT_KAFKA_BROKERS", "kafka:9092"),
            ("CONNECT_KAFKA_TOPICS", "orders"),
            ("CONNECT_STORE_PASSWORD", "007"),
            ("CONNECT_SHARD", "0/2"),
        ];
        let problems = load(&pairs).expect_err("the group is the default").to_string();
        let both = "CONNECT_SHARD (environment), CONNECT_KAFKA_ASSIGNMENT (default): a shard is for";
        assert!(problems.contains(both), "{problems}");
        let problems = load(&[&pairs[..], &[("CONNECT_KAFKA_ASSIGNMENT", "group")]].concat()).expect_err("said so");
        assert!(problems.to_string().contains("CONNECT_KAFKA_ASSIGNMENT (environment)"), "{problems}");
        let without = load(&[&pairs[..], &[("CONNECT_KAFKA_ASSIGNMENT", "static")]].concat()).expect("valid");
        assert_eq!(without.core.shard, Some(Shard { index: 0, count: 2 }));
    }

    #[test]
    fn what_is_in_force_shows_its_origin_and_no_secret() {
        let layers = Layers::from_environment([("CONNECT_NAME", "orders"), ("CONNECT_STORE_PASSWORD", "hunter2")]);
        let rows = effective(&layers, &Configuration::<Store>::variables());
        let row = |name: &str| {
            let row = rows.iter().find(|row| row.name == name).expect("every variable has a row");
            (row.value.as_deref(), row.origin.as_str())
        };
        assert_eq!(row("CONNECT_NAME"), (Some("orders"), "environment"));
        assert_eq!(row("CONNECT_MEMORY"), (Some("24MiB"), "default"));
        assert_eq!(row("CONNECT_RATE"), (None, "not set"));
        assert_eq!(row("CONNECT_STORE_PASSWORD"), (Some("(secret)"), "environment"));
    }
}
