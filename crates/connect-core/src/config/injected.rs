//! Names that nobody meant: misspelt ones are refused, those that Kubernetes injects are not.

use std::collections::BTreeSet;

use super::layers::Raw;
use super::{Layers, Problems, Variable};

/// Reports every name that is set and not known, with the known one that it resembles.
pub(super) fn refuse_unknown(layers: &Layers, known: &[Variable], problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for variable in known {
        names.insert(variable.name.clone());
        names.extend(variable.file_name());
    }
    for (name, Raw { text, origin }) in &layers.values {
        if names.contains(name) || is_injected(name, text.as_deref().unwrap_or_default()) {
            continue;
        }
        let advice = match nearest(name, &names) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => "unset it; `--help` lists the names".to_owned(),
        };
        problems.add(name, origin, format!("there is no such variable: {advice}"));
    }
}

/// For a service `connect-redis` Kubernetes gives every pod of its namespace `CONNECT_REDIS_SERVICE_HOST`,
/// `CONNECT_REDIS_PORT=tcp://…`, `CONNECT_REDIS_PORT_6379_TCP_ADDR` and the like. `CONNECT_REDIS_PORT=6379` is a person's mistake.
fn is_injected(name: &str, text: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    if name.ends_with("_PORT") && text.contains("://") {
        return true;
    }
    let Some((_, port)) = name.split_once("_PORT_") else { return false };
    let rest = port.trim_start_matches(|digit: char| digit.is_ascii_digit());
    rest.len() < port.len() && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| rest.starts_with(protocol))
}

/// The known name that `name` most likely stands for; `None` when none is near.
fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a String> {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let (nearest, distance) =
        known.iter().map(|other| (other, distance(other))).min_by_key(|(_, distance)| *distance)?;
    // A third of what follows CONNECT_ may differ: beyond that a guess misleads.
    let rest = name.strip_prefix(super::PREFIX)?;
    if distance <= rest.len().div_ceil(3) {
        return Some(nearest);
    }
    // Or the section was left out: CONNECT_BROKERS.
    known.iter().find(|other| other.strip_suffix(rest).is_some_and(|section| section.ends_with('_')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Section;

    crate::section! {
        /// A section with a name like those of Kubernetes.
        struct Odd = "ODD" {
            /// A port.
            port: u16,
            /// A host.
            service_host: String,
        }
    }

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        let right = [("CONNECT_ODD_PORT", "1"), ("CONNECT_ODD_SERVICE_HOST", "x")];
        let problems = Odd::from_pairs(&[&right, pairs].concat()).map(|_| ());
        problems.expect_err("a problem").lines().to_vec()
    }

    #[test]
    fn a_known_name_counts_whatever_it_looks_like() {
        let pairs =
            [("CONNECT_ODD_PORT", "17"), ("CONNECT_ODD_SERVICE_HOST", "here"), ("CONNECT_SERVICE_HOST", "ignored")];
        let odd = Odd::from_pairs(&pairs).expect("valid");
        assert_eq!((odd.port, odd.service_host.as_str()), (17, "here"));
        let problem = Odd::from_pairs(&[("CONNECT_ODD_PORT", "tcp://10.0.0.1:6379"), pairs[1]]).expect_err("no port");
        assert!(problem.lines()[0].starts_with("CONNECT_ODD_PORT (environment): expected"), "{problem}");
    }

    #[test]
    fn the_nearest_name_is_offered_and_none_when_none_is_near() {
        for (name, offered) in [
            ("CONNECT_ODD_PROT", Some("CONNECT_ODD_PORT")),
            ("CONNECT_OD_PORTS", Some("CONNECT_ODD_PORT")),
            ("CONNECT_SERVICE_HOSTS", Some("CONNECT_ODD_SERVICE_HOST")),
            ("CONNECT_ODD_HOST_SERVICE", None),
            ("CONNECT_FAIRLY_FAR_AWAY", None),
            ("CONNECT_PORT", Some("CONNECT_ODD_PORT")),
            ("CONNECT_HOST", Some("CONNECT_ODD_SERVICE_HOST")),
            ("CONNECT_", None),
        ] {
            let lines = problems(&[(name, "6379")]);
            let advice = offered.map_or("unset it".to_owned(), |offered| format!("did you mean {offered}?"));
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(
                lines[0].starts_with(&format!("{name} (environment): there is no such variable: {advice}")),
                "{lines:#?}"
            );
        }
    }

    #[test]
    fn what_kubernetes_injects_is_told_from_a_mistake() {
        let address = "tcp://10.0.0.1:6379";
        for (name, text) in [
            ("CONNECT_REDIS_SERVICE_HOST", "10.0.0.1"),
            ("CONNECT_REDIS_SERVICE_PORT", "6379"),
            ("CONNECT_REDIS_SERVICE_PORT_REDIS", "6379"),
            ("CONNECT_REDIS_PORT", address),
            ("CONNECT_REDIS_PORT_6379_TCP", address),
            ("CONNECT_REDIS_PORT_6379_TCP_PROTO", "tcp"),
            ("CONNECT_REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
            ("CONNECT_PORT_53_UDP_PORT", "53"),
        ] {
            assert!(is_injected(name, text), "{name}={text}");
        }
        for (name, text) in [
            ("CONNECT_REDIS_PORT", "6379"),
            ("CONNECT_REDIS_HOST", "10.0.0.1"),
            ("CONNECT_REDIS_PORT_NUMBER", "6379"),
            ("CONNECT_REDIS_PORT_6379", "6379"),
            ("CONNECT_EXPORT_TCP", "tcp"),
        ] {
            assert!(!is_injected(name, text), "{name}={text}");
        }
    }
}
