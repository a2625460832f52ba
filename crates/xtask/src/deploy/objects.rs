//! What must hold for every pod that the chart or the base makes, beyond the API's schemas.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{
    chart::Rendered,
    reference::{Chapter, is_known},
};

/// The drain time-out where none is set.
const DRAIN_SECONDS: u64 = 25;

/// Checks all objects.
///
/// # Errors
/// Every problem, with the file of values behind it.
pub fn check(rendered: &[Rendered], chapters: &[Chapter]) -> Result<()> {
    let mut problems = Vec::new();
    let mut pods = 0;
    for Rendered { source, object } in rendered {
        let kind = object["kind"].as_str().unwrap_or_default();
        let spec = &object["spec"]["template"]["spec"];
        if spec.is_null() {
            continue;
        }
        pods += 1;
        let config = config_of(source, rendered);
        for problem in pod_problems(kind, object, spec, &config, chapters) {
            problems.push(format!("{source}: {kind}: {problem}"));
        }
    }
    if pods == 0 {
        problems.push("nothing makes a pod".to_owned());
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// The data of the ConfigMap that Kustomize generates the environment from.
fn config_of(source: &str, rendered: &[Rendered]) -> Vec<(String, String)> {
    let maps = rendered.iter().filter(|other| other.source == source && other.object["kind"] == "ConfigMap");
    let data = maps.filter_map(|map| map.object["data"].as_object()).flatten();
    let variables = data.filter(|(name, _)| name.starts_with("CONNECT_"));
    variables.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn pod_problems(
    kind: &str,
    object: &Value,
    spec: &Value,
    config: &[(String, String)],
    chapters: &[Chapter],
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut must = |holds: bool, problem: &str| {
        if !holds {
            problems.push(problem.to_owned());
        }
    };
    must(spec["automountServiceAccountToken"] == json!(false), "the service account's token is mounted");
    must(
        spec["enableServiceLinks"] == json!(false),
        "service links would put variables of our prefix into the environment",
    );
    must(spec["securityContext"]["runAsNonRoot"] == json!(true), "may run as root");
    must(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp profile");
    let container = &spec["containers"][0];
    let security = &container["securityContext"];
    must(security["readOnlyRootFilesystem"] == json!(true), "the root file system can be written");
    must(security["allowPrivilegeEscalation"] == json!(false), "privileges may grow");
    must(security["capabilities"]["drop"] == json!(["ALL"]), "capabilities are kept");
    must(container["resources"]["limits"]["memory"].is_string(), "no memory limit");

    let empty = Vec::new();
    let environment = container["env"].as_array().unwrap_or(&empty);
    let own = environment.iter().map(|entry| (text(&entry["name"]), text(&entry["value"])));
    let variables: Vec<_> = own.chain(config.iter().cloned()).collect();
    for (name, _) in variables.iter().filter(|(name, _)| name.starts_with("CONNECT_")) {
        must(is_known(chapters, name), &format!("{name} is not in docs/configuration.md"));
    }
    let has = |name: &str| variables.iter().any(|(other, _)| other == name);
    must(has("CONNECT_NAME") && has("CONNECT_KAFKA_BROKERS"), "the connector's name or the brokers are not set");

    let drain = variables.iter().find(|(name, _)| name == "CONNECT_DRAIN_TIMEOUT");
    let drain = drain.and_then(|(_, value)| seconds(value)).unwrap_or(DRAIN_SECONDS);
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
    must(grace >= drain + 5, &format!("killed after {grace} s, though a drain may take {drain} s"));

    if kind != "Job" {
        must(container["livenessProbe"]["httpGet"]["path"] == "/livez", "liveness is not /livez");
        must(container["readinessProbe"]["httpGet"]["path"] == "/readyz", "readiness is not /readyz");
        let labels = &object["spec"]["template"]["metadata"]["labels"];
        let selector = object["spec"]["selector"]["matchLabels"].as_object();
        let chosen = selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels[key] == *value));
        must(chosen, "the selector doesn't choose the pods");
    }
    // The names of a Deployment's pods never come again: each restart would leave a member behind that holds partitions.
    must(kind == "StatefulSet" || !has("CONNECT_KAFKA_INSTANCE_ID"), "an instance id outside a StatefulSet");
    if kind == "StatefulSet" {
        let id = environment.iter().find(|entry| entry["name"] == "CONNECT_KAFKA_INSTANCE_ID");
        let of_the_pod = id.is_some_and(|id| id["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name");
        must(
            of_the_pod || has("CONNECT_SHARD"),
            "neither the pod's name as instance id nor a shard: a restart moves partitions",
        );
    }
    problems
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `1500ms`, `25s`, `5m` or `1h` in whole seconds, rounded up.
fn seconds(duration: &str) -> Option<u64> {
    let digits = duration.find(|letter: char| !letter.is_ascii_digit())?;
    let number: u64 = duration[..digits].parse().ok()?;
    match &duration[digits..] {
        "ms" => Some(number.div_ceil(1000)),
        "s" => Some(number),
        "m" => Some(number * 60),
        "h" => Some(number * 3600),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::reference::read;

    fn workload(kind: &str, change: impl Fn(&mut Value)) -> Vec<String> {
        let mut object = json!({"kind": kind, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 35,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "env": [{"name": "CONNECT_NAME", "value": "n"}, {"name": "CONNECT_KAFKA_BROKERS", "value": "k:9"}],
                    "livenessProbe": {"httpGet": {"path": "/livez"}},
                    "readinessProbe": {"httpGet": {"path": "/readyz"}},
                    "resources": {"limits": {"memory": "1Mi"}},
                    "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]}},
                }],
            }},
        }});
        change(&mut object);
        let document = "<!-- CONNECT_*: generated -->\n| `CONNECT_NAME` | required | t | N. |\n| `CONNECT_KAFKA_BROKERS` | required | t | B. |";
        let chapters = read(document).unwrap();
        pod_problems(kind, &object, &object["spec"]["template"]["spec"], &[], &chapters)
    }

    #[test]
    fn a_right_pod_has_no_problem_and_each_wrong_one_has_its_own() {
        assert_eq!(workload("Deployment", |_| {}), Vec::<String>::new());
        for (pointer, value, problem) in [
            ("/automountServiceAccountToken", json!(true), "token"),
            ("/enableServiceLinks", json!(true), "service links"),
            ("/terminationGracePeriodSeconds", json!(29), "killed after 29 s"),
            ("/containers/0/securityContext/readOnlyRootFilesystem", json!(false), "root file system"),
            ("/containers/0/livenessProbe/httpGet/path", json!("/readyz"), "liveness"),
            ("/containers/0/env/0/name", json!("CONNECT_NAMES"), "CONNECT_NAMES is not in"),
            ("/containers/0/env/0/name", json!("CONNECT_KAFKA_INSTANCE_ID"), "instance id outside"),
        ] {
            let problems = workload("Deployment", |object| {
                *object["spec"]["template"]["spec"].pointer_mut(pointer).expect(pointer) = value.clone();
            });
            assert!(problems.iter().any(|text| text.contains(problem)), "{pointer}: {problems:?}");
        }
    }

    #[test]
    fn a_stateful_set_names_its_members_after_its_pods() {
        let problem = |entry: Value| {
            let problems = workload("StatefulSet", |object| {
                let environment = &mut object["spec"]["template"]["spec"]["containers"][0]["env"];
                environment.as_array_mut().unwrap().push(entry.clone());
            });
            problems.iter().any(|text| text.contains("neither the pod's name"))
        };
        let named =
            |path: &str| json!({"name": "CONNECT_KAFKA_INSTANCE_ID", "valueFrom": {"fieldRef": {"fieldPath": path}}});
        assert!(!problem(named("metadata.name")));
        assert!(problem(named("metadata.uid")));
        assert!(problem(json!({"name": "CONNECT_KAFKA_INSTANCE_ID", "value": "the-same-for-all"})));
    }

    #[test]
    fn durations_are_rounded_up() {
        for (text, expected) in [("1500ms", 2), ("25s", 25), ("5m", 300), ("1h", 3600)] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        assert_eq!(seconds("1h 5m"), None);
    }
}
