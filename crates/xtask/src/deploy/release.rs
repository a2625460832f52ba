//! How the objects of one release hold together: whatever chooses pods by their labels, or names another object, means one
//! that is there.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    chart::Rendered,
    files,
    pods::{config_of, list, text, variables},
    rules, scaling,
};

/// The pods that a workload or a Job makes.
#[derive(Debug)]
pub struct Pods<'a> {
    /// `Deployment`, `StatefulSet` or `Job`.
    pub kind: &'a str,
    /// Of the workload.
    pub name: String,
    /// `metadata` of the pods.
    pub metadata: &'a Value,
    /// `spec` of the pods.
    pub spec: &'a Value,
    /// The environment, as far as it is known before a pod runs.
    pub variables: Vec<(String, String)>,
}

impl Pods<'_> {
    /// Those of the Job that tries the settings before anything is there.
    pub fn are_a_check(&self) -> bool {
        self.spec["containers"][0]["args"][0] == "check"
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn has_port(&self, name: &Value) -> bool {
        list(&self.spec["containers"][0]["ports"]).iter().any(|port| port["name"] == *name)
    }
}

/// Checks each release: all that was made of one file of values, or of one overlay.
///
/// # Errors
/// Every problem, with the file of values behind it.
pub fn check(rendered: &[Rendered]) -> Result<()> {
    let sources: BTreeSet<&str> = rendered.iter().map(|one| one.source.as_str()).collect();
    let mut all = Vec::new();
    for source in sources {
        let objects: Vec<_> = rendered.iter().filter(|one| one.source == source).map(|one| &one.object).collect();
        let found = problems(&objects, &config_of(source, rendered));
        all.extend(found.into_iter().map(|problem| format!("{source}: {problem}")));
    }
    if !all.is_empty() {
        bail!("{}", all.join("\n"));
    }
    Ok(())
}

fn problems(objects: &[&Value], config: &[(String, String)]) -> Vec<String> {
    let pods = pods_of(objects, config);
    let mut problems = Vec::new();
    for object in objects {
        let kind = text(&object["kind"]);
        let found = match kind.as_str() {
            "PodDisruptionBudget" => chosen(&object["spec"]["selector"]["matchLabels"], &pods),
            "Service" => service(object, &pods),
            "PodMonitor" => monitor(object, &pods),
            "NetworkPolicy" => policy(object, &pods),
            "ScaledObject" => scaling::problems(object, objects, &pods),
            "PrometheusRule" => rules::problems(object),
            _ => Vec::new(),
        };
        problems.extend(found.into_iter().map(|problem| format!("{kind}: {problem}")));
    }
    for one in &pods {
        let mut found = files::problems(one, objects);
        found.extend(pod_problems(one, objects));
        problems.extend(found.into_iter().map(|problem| format!("{} {}: {problem}", one.kind, one.name)));
    }
    problems
}

fn pods_of<'a>(objects: &[&'a Value], config: &[(String, String)]) -> Vec<Pods<'a>> {
    let made = objects.iter().filter(|object| object["spec"]["template"]["spec"].is_object());
    made.map(|object| {
        let template = &object["spec"]["template"];
        Pods {
            kind: object["kind"].as_str().unwrap_or_default(),
            name: text(&object["metadata"]["name"]),
            metadata: &template["metadata"],
            spec: &template["spec"],
            variables: variables(&template["spec"], config),
        }
    })
    .collect()
}

/// Whether labels are chosen. An empty selector would choose every pod of the namespace.
fn chooses(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object();
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(label, value)| labels[label] == *value))
}

/// The connector's own pods are chosen, and the check's is not.
fn chosen(selector: &Value, pods: &[Pods]) -> Vec<String> {
    let wrong = pods.iter().filter(|one| chooses(selector, &one.metadata["labels"]) == one.are_a_check());
    wrong
        .map(|one| {
            let but = if one.are_a_check() { "chosen, though they only try the settings" } else { "not chosen" };
            format!("the pods of {} are {but}", one.name)
        })
        .collect()
}

fn service(object: &Value, pods: &[Pods]) -> Vec<String> {
    let mut problems = chosen(&object["spec"]["selector"], pods);
    for port in list(&object["spec"]["ports"]) {
        problems.extend(without_port(&port["targetPort"], pods));
    }
    problems
}

fn monitor(object: &Value, pods: &[Pods]) -> Vec<String> {
    let mut problems = chosen(&object["spec"]["selector"]["matchLabels"], pods);
    for endpoint in list(&object["spec"]["podMetricsEndpoints"]) {
        problems.extend(without_port(&endpoint["port"], pods));
        let labels = list(&endpoint["relabelings"]);
        let connector = labels.iter().find(|label| label["targetLabel"] == "connector");
        if connector.is_none_or(|label| label["replacement"] != object["metadata"]["name"]) {
            problems.push("doesn't set the label `connector`, by which alerts and dashboard choose".to_owned());
        }
    }
    problems
}

/// Each of them is for some pods; that all pods have one is [`pod_problems`]' to see.
fn policy(object: &Value, pods: &[Pods]) -> Vec<String> {
    let meant = |one: &&Pods| chooses(&object["spec"]["podSelector"]["matchLabels"], &one.metadata["labels"]);
    let meant: Vec<_> = pods.iter().filter(meant).collect();
    let mut problems = Vec::new();
    if meant.is_empty() {
        problems.push(format!("{} holds for no pod", object["metadata"]["name"]));
    }
    for rule in list(&object["spec"]["ingress"]) {
        for port in list(&rule["ports"]) {
            if meant.iter().any(|one| !one.has_port(&port["port"])) {
                problems.push(format!("lets in to {}, a port that isn't there", port["port"]));
            }
        }
    }
    problems
}

fn without_port(port: &Value, pods: &[Pods]) -> Vec<String> {
    let without = pods.iter().filter(|one| !one.are_a_check() && !one.has_port(port));
    without.map(|one| format!("the pods of {} have no port {port}", one.name)).collect()
}

fn pod_problems(one: &Pods, objects: &[&Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let labels = &one.metadata["labels"];
    let of = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
    for constraint in list(&one.spec["topologySpreadConstraints"]) {
        if !chooses(&constraint["labelSelector"]["matchLabels"], labels) {
            problems.push("spread over nodes by the labels of other pods".to_owned());
        }
    }
    let held = |policy: &&Value| chooses(&policy["spec"]["podSelector"]["matchLabels"], labels);
    if of("NetworkPolicy").next().is_some() && !of("NetworkPolicy").any(held) {
        problems.push("no network policy holds for these pods, though there is one".to_owned());
    }
    let account = &one.spec["serviceAccountName"];
    if !account.is_null() && !of("ServiceAccount").any(|object| object["metadata"]["name"] == *account) {
        problems.push(format!("the service account {account} isn't made"));
    }
    for probe in ["livenessProbe", "readinessProbe"] {
        let port = &one.spec["containers"][0][probe]["httpGet"]["port"];
        if !port.is_null() && !one.has_port(port) {
            problems.push(format!("{probe} asks at {port}, a port that isn't there"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn release() -> Vec<Value> {
        let pods = |name: &str, arguments: Value, ports: Value| {
            json!({"metadata": {"labels": {"app": name}}, "spec": {
                "serviceAccountName": if name == "orders" { json!("orders") } else { Value::Null },
                "topologySpreadConstraints": [{"labelSelector": {"matchLabels": {"app": name}}}],
                "containers": [{"args": arguments, "ports": ports}]}})
        };
        let running = pods("orders", Value::Null, json!([{"name": "metrics"}]));
        let check = pods("orders-check", json!(["check"]), Value::Null);
        let monitored =
            json!([{"port": "metrics", "relabelings": [{"targetLabel": "connector", "replacement": "orders"}]}]);
        vec![
            json!({"kind": "Deployment", "metadata": {"name": "orders"}, "spec": {"template": running}}),
            json!({"kind": "Job", "metadata": {"name": "orders-check"}, "spec": {"template": check}}),
            json!({"kind": "ServiceAccount", "metadata": {"name": "orders"}}),
            json!({"kind": "PodDisruptionBudget", "spec": {"selector": {"matchLabels": {"app": "orders"}}}}),
            json!({"kind": "Service", "spec": {"selector": {"app": "orders"}, "ports": [{"targetPort": "metrics"}]}}),
            json!({"kind": "PodMonitor", "metadata": {"name": "orders"}, "spec": {
                "selector": {"matchLabels": {"app": "orders"}}, "podMetricsEndpoints": monitored}}),
            json!({"kind": "NetworkPolicy", "metadata": {"name": "orders"}, "spec": {
                "podSelector": {"matchLabels": {"app": "orders"}}, "ingress": [{"ports": [{"port": "metrics"}]}]}}),
            json!({"kind": "NetworkPolicy", "metadata": {"name": "orders-check"}, "spec": {
                "podSelector": {"matchLabels": {"app": "orders-check"}}}}),
        ]
    }

    fn found(objects: &[Value]) -> Vec<String> {
        problems(&objects.iter().collect::<Vec<_>>(), &[])
    }

    #[test]
    fn a_right_release_has_no_problem_and_each_wrong_one_has_its_own() {
        assert_eq!(found(&release()), Vec::<String>::new());
        let check = json!({"app": "orders-check"});
        for (object, pointer, value, problem) in [
            (0, "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels", json!({}), "spread over"),
            (2, "/metadata/name", json!("other"), "service account \"orders\" isn't made"),
            (3, "/spec/selector/matchLabels", json!({}), "PodDisruptionBudget: the pods of orders are not chosen"),
            (3, "/spec/selector/matchLabels", check.clone(), "orders-check are chosen, though"),
            (4, "/spec/ports/0/targetPort", json!("admin"), "Service: the pods of orders have no port \"admin\""),
            (4, "/spec/selector", check.clone(), "Service: the pods of orders are not chosen"),
            (5, "/spec/podMetricsEndpoints/0/port", json!("admin"), "PodMonitor: the pods of orders have no port"),
            (5, "/spec/podMetricsEndpoints/0/relabelings", json!([]), "doesn't set the label `connector`"),
            (5, "/spec/podMetricsEndpoints/0/relabelings/0/replacement", json!("x"), "the label `connector`"),
            (6, "/spec/ingress/0/ports/0/port", json!("admin"), "lets in to \"admin\""),
            (7, "/spec/podSelector/matchLabels/app", json!("other"), "\"orders-check\" holds for no pod"),
            (7, "/spec/podSelector/matchLabels/app", json!("orders"), "Job orders-check: no network policy holds"),
        ] {
            let mut release = release();
            *release[object].pointer_mut(pointer).expect(pointer) = value;
            let problems = found(&release);
            assert!(problems.iter().any(|text| text.contains(problem)), "{pointer}: {problems:?}");
        }
    }
}
