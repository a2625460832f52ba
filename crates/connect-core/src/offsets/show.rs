//! `offsets show`.

use super::table::table;
use super::{Desk, Place, Report, Selection};
use crate::config::Configuration;
use crate::connector::Connector;
use crate::sink::Resume;

/// Tells where each partition stands. Changes nothing.
///
/// # Errors
/// Kafka can't be asked, or a topic is missing.
pub(crate) async fn show<C: Connector>(
    configuration: Configuration<C::Config>,
    selected: Vec<Selection>,
) -> Result<Report, String> {
    let desk = Desk::open::<C>(configuration).await?;
    let places = desk.places(&selected).await?;
    let head = ["PARTITION", "COMMITTED", "STORED", "EARLIEST", "STABLE", "END", "LAG", "NOTE"];
    let rows: Vec<_> = places.iter().map(row).collect();
    let mut report = Report { text: table(head, &rows), good: true };
    for place in &places {
        if let Err(problem) = &place.stored {
            report.good = false;
            report.text += &format!("{}: the store does not tell: {problem}\n", place.partition());
        }
        if let Some(warning) = set_elsewhere(place) {
            report.text += &warning;
        }
    }
    Ok(report)
}

fn row(place: &Place) -> [String; 8] {
    let committed = place.committed.as_ref();
    let note = match committed {
        Some(committed) if committed.note().is_none() => "committed by another program".to_owned(),
        Some(committed) => committed.metadata.clone(),
        None => String::new(),
    };
    [
        place.partition().to_string(),
        committed.map_or("-".to_owned(), |committed| committed.offset.to_string()),
        stored(place),
        place.earliest.to_string(),
        place.stable.to_string(),
        place.end.to_string(),
        place.next().map_or("-".to_owned(), |next| (place.end - next).max(0).to_string()),
        note,
    ]
}

/// `-` for a store that keeps none.
pub(super) fn stored(place: &Place) -> String {
    match place.stored {
        Ok(Resume::At(offset)) => offset.to_string(),
        Ok(Resume::Empty) => "none".to_owned(),
        Ok(Resume::NotKept) => "-".to_owned(),
        Err(_) => "?".to_owned(),
    }
}

fn set_elsewhere(place: &Place) -> Option<String> {
    let (committed, Ok(Resume::At(stored))) = (place.committed.as_ref()?, &place.stored) else { return None };
    let differs = place.assigned.committed_by_other && committed.offset != *stored;
    differs.then(|| {
        format!(
            "{}: another program set the offset in Kafka; the connector goes on at {stored}, which is stored with the data. To \
             go on elsewhere: offsets reset --to offset:{}\n",
            place.partition(),
            committed.offset
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::coordinator::Committed;
    use crate::record::TopicPartition;
    use crate::sink::Assigned;

    fn place(committed: Option<(i64, &str)>, stored: Result<Resume, String>) -> Place {
        let committed = committed.map(|(offset, note)| Committed { offset, metadata: note.to_owned() });
        let by_other = committed.as_ref().is_some_and(|committed| committed.note().is_none());
        let assigned = Assigned { committed_by_other: by_other, ..Assigned::new(TopicPartition::new("orders", 3)) };
        Place { assigned, committed, stored, earliest: 2, stable: 40, end: 42 }
    }

    #[test]
    fn the_lag_is_counted_from_where_the_connector_goes_on() {
        for (committed, stored, lag) in [
            (None, Ok(Resume::NotKept), "-"),
            (Some((40, "connect 1")), Ok(Resume::NotKept), "2"),
            (Some((40, "connect 1")), Ok(Resume::At(30)), "12"),
            (Some((40, "connect 1")), Ok(Resume::Empty), "-"),
            (Some((99, "connect 1")), Ok(Resume::NotKept), "0"),
        ] {
            assert_eq!(row(&place(committed, stored))[6], lag, "{committed:?}");
        }
    }

    #[test]
    fn a_commit_by_another_program_is_told_where_it_has_no_effect() {
        let told = |note, stored| set_elsewhere(&place(Some((7, note)), Ok(stored)));
        assert!(told("", Resume::At(40)).expect("told").contains("--to offset:7"));
        assert_eq!(told("", Resume::At(7)), None);
        assert_eq!(told("", Resume::NotKept), None);
        assert_eq!(told("connect 1", Resume::At(40)), None);
    }
}
