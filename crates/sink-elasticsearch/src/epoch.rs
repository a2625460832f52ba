//! Epochs in what guards compare: the version of a document, and the offsets in its guard field.

use crate::answer::Cause;

/// How much higher everything is in the next epoch. Offsets lie below 2^48, epochs below 2^15: together they make a positive
/// number of 64 bits.
const LIFE: i64 = 1 << 48;

/// What the script of a guarded update says when the document is of a later epoch, whose number follows.
pub(crate) const LATER: &str = "connect: the document is of epoch ";

/// What guards compare: offsets, in the order of their epochs.
pub(crate) fn in_order(epoch: u16, offset: i64) -> i64 {
    i64::from(epoch) * LIFE + offset
}

/// The epoch of the document that an action was refused for, where the server's words tell it and it is later than ours.
///
/// Elasticsearch and OpenSearch name both versions of a conflict; `tests/golden` has what they say. Where they ever stop, a record
/// of an earlier epoch counts as superseded.
pub(crate) fn later(cause: &Cause, ours: u16) -> Option<i64> {
    let causes = std::iter::successors(Some(cause), |cause| cause.caused_by.as_deref());
    // Of these kinds alone: what else goes wrong may be told with words of the document.
    let mut epochs = causes.filter_map(|cause| match (cause.kind.as_str(), cause.reason.as_deref()?) {
        ("version_conflict_engine_exception", reason) => Some(current_version(reason)? / LIFE),
        ("illegal_state_exception", reason) => reason.strip_prefix(LATER)?.parse().ok(),
        _ => None,
    });
    epochs.next().filter(|theirs| *theirs > i64::from(ours))
}

/// The last number of that name, for an id stands before it that may say anything.
fn current_version(reason: &str) -> Option<i64> {
    const NAME: &str = "current version [";
    let number = &reason[reason.rfind(NAME)? + NAME.len()..];
    number.split(']').next()?.parse().ok()
}

/// For a process that was left behind.
pub(crate) fn left_behind(theirs: i64, ours: u16) -> String {
    format!(
        "there are documents of epoch {theirs}, and this process is in epoch {ours}: what it wrote would count as older. Set \
         CONNECT_EPOCH={theirs} for every process of this connector"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(kind: &str, reason: &str) -> Cause {
        Cause { kind: kind.to_owned(), reason: Some(reason.to_owned()), caused_by: None }
    }

    fn conflict(reason: &str) -> Cause {
        cause("version_conflict_engine_exception", reason)
    }

    #[test]
    fn a_later_epoch_is_read_from_the_versions_of_a_conflict() {
        let lost = |id: &str, epoch| {
            let version = in_order(epoch, 7);
            let words = "is higher or equal to the one provided [12]";
            conflict(&format!("[{id}]: version conflict, current version [{version}] {words}"))
        };
        for (theirs, ours, found) in
            [(0, 0, None), (1, 1, None), (1, 2, None), (1, 0, Some(1)), (32_767, 9, Some(32_767))]
        {
            assert_eq!(later(&lost("k", theirs), ours), found, "{theirs} {ours}");
        }
        let pretending = format!("current version [{}]", i64::MAX);
        assert_eq!(later(&lost(&pretending, 0), 0), None, "an id says nothing");
        assert_eq!(later(&cause("document_parsing_exception", &pretending), 0), None, "nor does a document");
        for strange in [
            "",
            "(current version [1])",
            "current version [",
            "current version [x]",
            "current version [99999999999999999999]",
        ] {
            assert_eq!(later(&conflict(strange), 0), None, "{strange}");
        }
    }

    #[test]
    fn a_later_epoch_is_read_from_what_the_script_says() {
        let said = |kind: &str| Cause {
            caused_by: Some(Box::new(cause(kind, &format!("{LATER}3")))),
            ..cause("illegal_argument_exception", "failed to execute script")
        };
        let ours = said("illegal_state_exception");
        assert_eq!((later(&ours, 2), later(&ours, 3)), (Some(3), None));
        assert_eq!(later(&said("mapper_parsing_exception"), 2), None);
        assert!(left_behind(3, 2).contains("Set CONNECT_EPOCH=3"));
    }
}
