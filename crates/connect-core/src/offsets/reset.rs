//! `offsets reset`.

use std::fmt::Write;

use super::show::stored;
use super::table::table;
use super::{Desk, Place, Report, Selection, patiently};
use crate::config::{AssignmentChoice, Configuration, Epoch};
use crate::connector::Connector;
use crate::kafka::CommitNote;
use crate::kafka::coordinator::{Committed, Identity};
use crate::kafka::group_members::{self, GroupMember};
use crate::record::TopicPartition;
use crate::settings::Start;
use crate::sink::{Replay, Sink};
use crate::source::Position;

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Reset {
    /// Where to go.
    pub to: Start,
    /// Of which partitions; all if empty.
    pub selected: Vec<Selection>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What the store remembers of earlier records is to count as older.
    pub new_epoch: bool,
}

/// Puts the connector elsewhere: in Kafka, and where the store keeps offsets with the data, there too.
///
/// # Errors
/// Kafka or the store can't be asked, or the group has members: then nothing was changed, unless the message says so.
pub(crate) async fn reset<C: Connector>(
    configuration: Configuration<C::Config>,
    reset: Reset,
) -> Result<Report, String> {
    let ungrouped = configuration.kafka.assignment == AssignmentChoice::Static;
    let desk = Desk::open::<C>(configuration).await?;
    let members = patiently(async || group_members::members(&desk.coordinator).await).await?;
    let group = desk.coordinator.group();
    if !members.is_empty() && !reset.dry_run {
        return Err(refusal(group, &members, desk.cluster().config().session_timeout));
    }
    let places = desk.places(&reset.selected).await?;
    if let Some((place, problem)) = places.iter().find_map(|place| Some((place, place.stored.as_ref().err()?))) {
        // A reset is also the way out of a stored offset that means nothing any more; but not of a store that is away.
        patiently(async || desk.sink.check().await).await.map_err(|error| format!("nothing was changed: {error}"))?;
        tracing::warn!(partition = %place.partition(), "the stored offset will be replaced: {problem}");
    }
    let targets = targets(&desk, &places, reset.to).await?;
    let epoch = next_epoch(desk.coordinator.epoch(), &places, reset.new_epoch)?;

    let mut report = Report { text: plan(&places, &targets), good: true };
    let back = places.iter().zip(&targets).any(|(place, to)| place.next().is_some_and(|next| next > to.1));
    report.text += &advice(desk.sink.replay(), back, reset.new_epoch);
    if reset.dry_run {
        report.text += "nothing was changed (--dry-run)\n";
        if !members.is_empty() {
            report.text += &refusal(group, &members, desk.cluster().config().session_timeout);
            report.text += "\n";
        }
        return Ok(report);
    }

    // First where a broker refuses while somebody is at work: then nothing has been changed.
    let note = CommitNote { start: true, epoch };
    let committed = desk.coordinator.commit_with(&Identity::none(), &targets, note).await;
    committed.map_err(|error| format!("nothing was changed: {error}"))?;
    for (place, (_, to)) in places.iter().zip(&targets) {
        desk.asked(async || desk.sink.set_stored(&place.assigned, *to).await).await.map_err(|error| {
            format!(
                "{}: the offset is set in Kafka, but not in the store: {error}. Call the same command again",
                place.partition()
            )
        })?;
    }
    report.text += &format!("set for group {group}\n");
    if reset.new_epoch {
        report.text += &format!(
            "now set CONNECT_EPOCH={epoch} for every process of this connector; without it they refuse to start\n"
        );
    }
    if ungrouped {
        report.text += "with CONNECT_KAFKA_ASSIGNMENT=static nobody can tell whether a process runs; one that did may commit its \
                        own offset again: stop all, and call `offsets show`\n";
    }
    Ok(report)
}

fn refusal(group: &str, members: &[GroupMember], session: std::time::Duration) -> String {
    let names: Vec<_> = members.iter().map(ToString::to_string).collect();
    format!(
        "nothing was changed: group {group} has members: {}. Stop every process of this connector first. One that was killed, or \
         that has a CONNECT_KAFKA_INSTANCE_ID, counts until its session ends: {session:?} in the classic protocol, in that of \
         Kafka 4 what the broker says (group.consumer.session.timeout.ms)",
        names.join(", ")
    )
}

/// The offset for each place, within what the partition holds.
async fn targets<K: Sink>(desk: &Desk<K>, places: &[Place], to: Start) -> Result<Vec<(TopicPartition, i64)>, String> {
    let isolation = desk.cluster().config().isolation;
    let timed = match to {
        Start::Timestamp(time) => {
            let partitions: Vec<_> = places.iter().map(|place| place.partition().clone()).collect();
            desk.look_up(&partitions, Position::Timestamp(time), isolation).await?
        }
        _ => Default::default(),
    };
    let readable = |place: &Place| match isolation {
        crate::config::Isolation::ReadCommitted => place.stable,
        crate::config::Isolation::ReadUncommitted => place.end,
    };
    let target = |place: &Place| match to {
        Start::Earliest => place.earliest,
        Start::Latest => readable(place),
        Start::Timestamp(_) => timed.get(place.partition()).copied().unwrap_or(place.earliest),
        Start::Offset(offset) => offset.clamp(place.earliest, readable(place)),
    };
    Ok(places.iter().map(|place| (place.partition().clone(), target(place))).collect())
}

/// The epoch to commit in: one more than any before, if a new one was asked for.
fn next_epoch(ours: u16, places: &[Place], new: bool) -> Result<u16, String> {
    let committed = places.iter().filter_map(|place| place.committed.as_ref().and_then(Committed::note));
    let highest = committed.map(|note| note.epoch).max().unwrap_or_default().max(ours);
    if !new {
        return Ok(highest);
    }
    highest.checked_add(1).filter(|epoch| *epoch <= Epoch::HIGHEST).ok_or_else(|| {
        "nothing was changed: there are no more epochs; use a new CONNECT_NAME and a new place in the store".to_owned()
    })
}

fn plan(places: &[Place], targets: &[(TopicPartition, i64)]) -> String {
    let row = |(place, (_, to)): (&Place, &(TopicPartition, i64))| {
        let move_ = match place.next() {
            Some(next) if next > *to => format!("{} offsets are read again", next - to),
            Some(next) if next < *to => format!("{} offsets are left out", to - next),
            Some(_) => String::new(),
            None => "new".to_owned(),
        };
        let committed = place.committed.as_ref().map_or("-".to_owned(), |committed| committed.offset.to_string());
        [place.partition().to_string(), committed, stored(place), to.to_string(), move_]
    };
    let rows: Vec<_> = places.iter().zip(targets).map(row).collect();
    table(["PARTITION", "COMMITTED", "STORED", "TO", ""], &rows)
}

/// What a person must know about records that are read again.
fn advice(replay: Replay, back: bool, new_epoch: bool) -> String {
    let mut text = String::new();
    let twice = "they count a second time on top of what is there: delete what they made before, or use a new place in the store";
    // Writing to a string can't fail.
    let _ = match replay {
        _ if !back => Ok(()),
        Replay::Written => writeln!(text, "records that are read again are written again, with the same outcome"),
        Replay::Repeated => writeln!(text, "records that are read again are written again, and {twice}"),
        Replay::Superseded { accumulates: true, .. } if new_epoch => {
            writeln!(text, "in a new epoch records that are read again are written again, and {twice}")
        }
        Replay::Superseded { .. } if new_epoch => {
            writeln!(text, "in a new epoch records that are read again are written again, older states included")
        }
        Replay::Superseded { instead, .. } => writeln!(
            text,
            "THIS CHANGES NOTHING IN THE STORE: it holds what these records or later ones wrote, and refuses them when they are \
             read again (outcome superseded). To have them written again: --new-epoch, or {instead}"
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{Assigned, Resume};

    fn place(committed: Option<(i64, &str)>, stored: Resume) -> Place {
        let committed = committed.map(|(offset, note)| Committed { offset, metadata: note.to_owned() });
        let assigned = Assigned::new(TopicPartition::new("orders", 3));
        Place { assigned, committed, stored: Ok(stored), earliest: 2, stable: 40, end: 42 }
    }

    #[test]
    fn an_epoch_is_higher_than_all_before() {
        let places = [place(Some((1, "connect 1 epoch=4")), Resume::NotKept), place(None, Resume::NotKept)];
        assert_eq!(next_epoch(0, &places, true), Ok(5));
        assert_eq!(next_epoch(9, &places, true), Ok(10));
        assert_eq!(next_epoch(0, &places, false), Ok(4), "a reset alone does not go back to an older epoch");
        assert_eq!(next_epoch(0, &places[1..], false), Ok(0));
        assert!(next_epoch(Epoch::HIGHEST, &places, true).is_err());
    }

    #[test]
    fn a_replay_without_effect_is_said_plainly() {
        let guarded = |accumulates| Replay::Superseded { instead: "a new index", accumulates };
        assert!(advice(guarded(false), true, false).contains("CHANGES NOTHING"));
        assert!(advice(guarded(false), true, false).contains("--new-epoch, or a new index"));
        assert!(advice(guarded(false), true, true).contains("written again"));
        assert!(advice(guarded(true), true, true).contains("a second time"));
        assert!(advice(Replay::Repeated, true, false).contains("a second time"));
        assert_eq!(advice(guarded(false), false, false), "", "what is left out is no replay");
    }

    #[test]
    fn the_plan_says_what_is_read_again_and_what_is_left_out() {
        let places = [
            place(Some((10, "connect 1")), Resume::At(12)),
            place(Some((10, "connect 1")), Resume::NotKept),
            place(None, Resume::Empty),
        ];
        let targets: Vec<_> = [2, 30, 2].iter().zip(&places).map(|(to, p)| (p.partition().clone(), *to)).collect();
        let text = plan(&places, &targets);
        let rows: Vec<_> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            rows,
            [
                "orders-3 10 12 2 10 offsets are read again",
                "orders-3 10 - 30 20 offsets are left out",
                "orders-3 - none 2 new"
            ]
        );
    }
}
