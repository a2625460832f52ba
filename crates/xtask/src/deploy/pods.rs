//! What must hold for every pod that the chart or the base makes, beyond the API's schemas.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{
    chart::Rendered,
    reference::{Chapter, default_of, is_known},
};

/// The user of the image, as the Dockerfile has it.
const USER: u64 = 65532;

/// Checks all pods.
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
pub(super) fn config_of(source: &str, rendered: &[Rendered]) -> Vec<(String, String)> {
    let maps = rendered.iter().filter(|other| other.source == source && other.object["kind"] == "ConfigMap");
    let data = maps.filter_map(|map| map.object["data"].as_object()).flatten();
    let variables = data.filter(|(name, _)| name.starts_with("CONNECT_"));
    variables.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// The variables of a pod, those of which the value is known only when it runs with an empty one.
pub(super) fn variables(spec: &Value, config: &[(String, String)]) -> Vec<(String, String)> {
    let own = list(&spec["containers"][0]["env"]).iter().map(|entry| (text(&entry["name"]), text(&entry["value"])));
    own.chain(config.iter().cloned()).collect()
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
    // That of the image, or none at all for OpenShift: it takes a pod whose every id is left to it.
    let ids = ["runAsUser", "runAsGroup", "fsGroup"].map(|id| &spec["securityContext"][id]);
    must(
        ids.iter().all(|id| **id == json!(USER)) || ids.iter().all(|id| id.is_null()),
        "runs neither as the image's user nor as the namespace's",
    );
    let container = &spec["containers"][0];
    let security = &container["securityContext"];
    must(security["readOnlyRootFilesystem"] == json!(true), "the root file system can be written");
    must(security["allowPrivilegeEscalation"] == json!(false), "privileges may grow");
    must(security["capabilities"]["drop"] == json!(["ALL"]), "capabilities are kept");
    must(!container["resources"]["limits"]["memory"].is_null(), "no memory limit");

    let environment = list(&container["env"]);
    let variables = variables(spec, config);
    for (name, _) in variables.iter().filter(|(name, _)| name.starts_with("CONNECT_")) {
        must(is_known(chapters, name), &format!("{name} is not in docs/configuration.md"));
    }
    let has = |name: &str| variables.iter().any(|(other, _)| other == name);
    must(has("CONNECT_NAME") && has("CONNECT_KAFKA_BROKERS"), "the connector's name or the brokers are not set");

    let drain = variables.iter().find(|(name, _)| name == "CONNECT_DRAIN_TIMEOUT");
    let drain = drain.map(|(_, value)| value.as_str()).or_else(|| default_of(chapters, "CONNECT_DRAIN_TIMEOUT"));
    let drain = drain.and_then(seconds).unwrap_or(u64::MAX);
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
    must(grace >= drain.saturating_add(5), &format!("killed after {grace} s, though a drain may take {drain} s"));

    if kind != "Job" {
        must(container["livenessProbe"]["httpGet"]["path"] == "/livez", "liveness is not /livez");
        must(container["readinessProbe"]["httpGet"]["path"] == "/readyz", "readiness is not /readyz");
        let labels = &object["spec"]["template"]["metadata"]["labels"];
        let selector = object["spec"]["selector"]["matchLabels"].as_object();
        let chosen = selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels[key] == *value));
        must(chosen, "the selector doesn't choose the pods");
    }
    for problem in number_problems(kind, object, environment) {
        must(false, &problem);
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

/// What is wrong with the number by which a pod knows which share is its own.
fn number_problems(kind: &str, object: &Value, environment: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let spec = &object["spec"];
    // Elsewhere the label or the annotation is not there, and its value an empty text.
    let numbers = [
        ("apps.kubernetes.io/pod-index", kind == "StatefulSet", &spec["replicas"]),
        ("batch.kubernetes.io/job-completion-index", spec["completionMode"] == "Indexed", &spec["completions"]),
    ];
    for (number, there, pods) in numbers {
        let from = |entry: &Value| text(&entry["valueFrom"]["fieldRef"]["fieldPath"]).contains(number);
        if !environment.iter().any(from) {
            continue;
        }
        if !there {
            problems.push(format!("{number} is asked for where no pod has it"));
        }
        let shard = environment.iter().find(|entry| entry["name"] == "CONNECT_SHARD");
        let shards = shard.and_then(|shard| shard["value"].as_str()?.split_once('/')?.1.parse().ok());
        if pods.as_u64() != shards {
            problems.push(format!("the topics are divided among {shards:?} pods, and there are {pods}"));
        }
    }
    for (index, entry) in environment.iter().enumerate() {
        let value = text(&entry["value"]);
        let Some((name, _)) = value.split_once("$(").and_then(|(_, rest)| rest.split_once(')')) else { continue };
        // What stands behind it, or nowhere, is left as it is written.
        if !environment[..index].iter().any(|before| before["name"] == name) {
            problems.push(format!("{value} asks for {name}, which is not set before it"));
        }
    }
    problems
}

/// The elements of a list that may be absent.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text, empty where there is none.
pub(super) fn text(value: &Value) -> String {
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
                "securityContext": {"runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"}},
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
        let document = "<!-- CONNECT_*: generated -->\n| `CONNECT_NAME` | required | t | N. |\n\
                        | `CONNECT_KAFKA_BROKERS` | required | t | B. |\n| `CONNECT_SHARD` | not set | s | S. |\n\
                        | `CONNECT_DRAIN_TIMEOUT` | `25s` | a duration | D. |\n";
        let chapters = read(document).unwrap();
        pod_problems(kind, &object, &object["spec"]["template"]["spec"], &[], &chapters)
    }

    #[test]
    fn a_right_pod_has_no_problem_and_each_wrong_one_has_its_own() {
        assert_eq!(workload("Deployment", |_| {}), Vec::<String>::new());
        for (pointer, value, problem) in [
            ("/automountServiceAccountToken", json!(true), "token"),
            ("/enableServiceLinks", json!(true), "service links"),
            ("/securityContext/fsGroup", Value::Null, "neither as the image's user"),
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
    fn a_pod_has_a_number_where_its_kind_gives_it_one() {
        let problems = |kind: &str, number: &str, shard: &str| {
            workload(kind, |object| {
                object["spec"]["replicas"] = json!(3);
                let environment = object["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap();
                environment.push(json!({"name": "SHARD", "valueFrom": {"fieldRef": {"fieldPath": number}}}));
                environment.push(json!({"name": "CONNECT_SHARD", "value": shard}));
            })
        };
        let of_a_set = "metadata.labels['apps.kubernetes.io/pod-index']";
        let of_a_job = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
        assert_eq!(problems("StatefulSet", of_a_set, "$(SHARD)/3"), Vec::<String>::new());
        for (kind, number, shard, problem) in [
            ("Job", of_a_set, "$(SHARD)/3", "asked for where no pod has it"),
            ("Job", of_a_job, "$(SHARD)/3", "asked for where no pod has it"),
            ("StatefulSet", of_a_set, "$(SHARD)/4", "divided among Some(4) pods, and there are 3"),
            ("StatefulSet", of_a_set, "$(SHARDS)/3", "asks for SHARDS"),
        ] {
            let problems = problems(kind, number, shard);
            assert!(problems.iter().any(|text| text.contains(problem)), "{kind} {number} {shard}: {problems:?}");
        }
    }

    #[test]
    fn durations_are_rounded_up() {
        for (text, expected) in [("1500ms", 2), ("25s", 25), ("5m", 300), ("1h", 3600)] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        assert_eq!(seconds("1h 5m"), None);
    }
}
