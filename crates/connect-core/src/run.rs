//! The `run` command: puts the parts together and waits for the end.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin;
use crate::budget::Budget;
use crate::config::{Configuration, CoreConfig, DeadLettersChoice};
use crate::connector::{Connector, Context};
use crate::dead_letters::{DeadLetterError, DeadLetters};
use crate::health::Health;
use crate::kafka::wire::Cluster;
use crate::kafka::{Connection, KafkaDeadLetterTopic, Membership, Reader};
use crate::ledger::Ledgers;
use crate::observe::{self, Scrape};
use crate::pipeline::Pipeline;
use crate::retry::Retry;
use crate::signals::Signals;
use crate::supervisor::{RunEnd, supervise};

/// Runs a connector until it is told to stop, is done, or can't go on.
///
/// # Errors
/// What a person must mend, in words for the log.
pub async fn run<C: Connector>(configuration: Configuration<C::Config>) -> Result<RunEnd, String> {
    let signals = Signals::catch()?;
    let context = Context::new(&configuration);
    info!(
        connector = C::NAME,
        version = C::VERSION,
        name = context.name,
        topics = context.topics.join(","),
        "starting"
    );

    let (health, ledgers) = (Arc::new(Health::default()), Arc::new(Ledgers::default()));
    let budget = Budget::new(configuration.core.memory_bytes());
    let scrape = Scrape::new(observe::recorder()?, Arc::clone(&ledgers), Arc::clone(&budget), Arc::clone(&health));
    let listen = configuration.core.admin_listen;
    let (_, serve) = admin::listen(listen, Arc::clone(&health), Arc::new(scrape)).await?;

    let shutdown = CancellationToken::new();
    let work = work::<C>(configuration, context, budget, Arc::clone(&ledgers), health, shutdown.clone());
    let end = tokio::select! {
        end = work => end,
        fault = serve => Err(fault),
        () = signals.forward(shutdown) => Ok(RunEnd::DrainTimeout),
    };
    ledgers.conclude();
    end
}

async fn work<C: Connector>(
    configuration: Configuration<C::Config>,
    context: Context,
    budget: Arc<Budget>,
    ledgers: Arc<Ledgers>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<RunEnd, String> {
    let Configuration { core, kafka, sink } = configuration;
    let settings = context.settings.clone();
    let cluster = Cluster::new(kafka.clone());
    let connection = Connection::new(kafka);
    let dead_letters = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(RunEnd::Drained),
        made = health.ticking(dead_letters(&core, &connection, settings.jitter_seed)) => made?,
    };
    let sink = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(RunEnd::Drained),
        made = health.ticking(C::sink(sink, context)) => Arc::new(made?),
    };
    let source = Arc::new(Reader::new(Arc::clone(&cluster), connection, budget));
    let pipeline = Arc::new(Pipeline::new(source, sink, dead_letters, settings, ledgers));
    let membership = Membership::new(cluster, &core).map_err(|error| error.to_string())?;
    supervise(pipeline, membership, health, shutdown).await
}

/// The topic is made now, so that a person who is watching the start sees it fail, and not a dead letter at night.
async fn dead_letters(core: &CoreConfig, connection: &Arc<Connection>, seed: u64) -> Result<DeadLetters, String> {
    let topic = match &core.dead_letters {
        DeadLettersChoice::Stop => return Ok(DeadLetters::Stop),
        DeadLettersChoice::Drop => return Ok(DeadLetters::Drop),
        DeadLettersChoice::Topic(topic) => topic,
    };
    let partitions = core.dead_letters_partitions.map(|number| i32::from(number.get()));
    let replication = core.dead_letters_replication.map(|number| i16::try_from(number.get()).unwrap_or(i16::MAX));
    let connection = Arc::clone(connection);
    let topic = KafkaDeadLetterTopic::new(connection, core.name.as_str(), topic, partitions, replication);
    let mut retry = Retry::new("making sure of the dead-letter topic", seed);
    loop {
        match topic.ensure().await {
            Ok(()) => {
                retry.succeeded();
                return Ok(DeadLetters::Topic(Arc::new(topic)));
            }
            Err(DeadLetterError::Transient(message)) => retry.wait("dead_letters", &message).await,
            Err(DeadLetterError::Refused(message)) => return Err(message),
        }
    }
}
