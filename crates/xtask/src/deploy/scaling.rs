//! What KEDA scales, and by what: the workload, the group and the topics are those of the pods.

use serde_json::{Value, json};

use super::{
    pods::{list, text},
    release::Pods,
};

/// What is wrong with a ScaledObject among the objects of its release.
pub fn problems(object: &Value, objects: &[&Value], pods: &[Pods]) -> Vec<String> {
    let target = &object["spec"]["scaleTargetRef"];
    let Some(pods) = pods.iter().find(|one| one.kind == target["kind"] && target["name"] == one.name.as_str()) else {
        return vec![format!("scales {target}, which isn't there")];
    };
    let mut problems = Vec::new();
    let triggers = list(&object["spec"]["triggers"]);
    let group = pods.variable("CONNECT_KAFKA_GROUP").or(pods.variable("CONNECT_NAME")).unwrap_or_default();
    let brokers = pods.variable("CONNECT_KAFKA_BROKERS").unwrap_or_default();
    for (name, expected) in [("consumerGroup", group), ("bootstrapServers", brokers)] {
        if triggers.iter().any(|trigger| trigger["metadata"][name] != expected) {
            problems.push(format!("{name} is not {expected}, as the pods have it"));
        }
    }
    let topics = pods.variable("CONNECT_KAFKA_TOPICS").unwrap_or_default();
    // Which topics a pattern means KEDA can't know: it then looks at all that the group has committed.
    let expected: Vec<Value> =
        if topics.starts_with('^') { vec![Value::Null] } else { topics.split(',').map(|topic| json!(topic)).collect() };
    let looked_at: Vec<_> = triggers.iter().map(|trigger| trigger["metadata"]["topic"].clone()).collect();
    if looked_at != expected {
        problems.push(format!("looks at the topics {looked_at:?}, and the pods read {topics}"));
    }
    let authentication = objects.iter().find(|object| object["kind"] == "TriggerAuthentication");
    for trigger in triggers {
        let wanted = &trigger["authenticationRef"]["name"];
        if *wanted != authentication.map_or(Value::Null, |object| object["metadata"]["name"].clone()) {
            problems.push(format!("the authentication {wanted} isn't there, or one is that is not used"));
        }
    }
    problems.extend(authentication.into_iter().flat_map(|object| authentication_problems(&object["spec"], pods)));
    problems
}

/// KEDA gets what the pods get, and something at all.
fn authentication_problems(spec: &Value, pods: &Pods) -> Vec<String> {
    let mut problems = Vec::new();
    if spec.as_object().is_none_or(|spec| spec.is_empty()) {
        problems.push("an authentication with nothing in it is refused".to_owned());
    }
    for variable in list(&spec["env"]) {
        let name = text(&variable["name"]);
        if variable["containerName"] != pods.spec["containers"][0]["name"] || pods.variable(&name).is_none() {
            problems.push(format!("the pods have no {name} in {}", variable["containerName"]));
        }
    }
    let sources: Vec<_> =
        list(&pods.spec["volumes"]).iter().flat_map(|one| list(&one["projected"]["sources"])).collect();
    for (list_of, kind) in [("secretTargetRef", "secret"), ("configMapTargetRef", "configMap")] {
        for reference in list(&spec[list_of]) {
            let is_it = |source: &&&Value| {
                let keys = list(&source[kind]["items"]);
                source[kind]["name"] == reference["name"] && keys.iter().any(|item| item["key"] == reference["key"])
            };
            if !sources.iter().any(|source| is_it(&source)) {
                problems
                    .push(format!("takes {} of {}, which the pods don't mount", reference["key"], reference["name"]));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(topics: &str, change: impl Fn(&mut Value)) -> Vec<String> {
        let trigger = |topic: &str| {
            json!({"authenticationRef": {"name": "orders"},
                "metadata": {"consumerGroup": "orders", "bootstrapServers": "kafka:9", "topic": topic}})
        };
        let mut all = json!({
            "scaled": {"spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "orders"},
                "triggers": [trigger("a"), trigger("b")]}},
            "authentication": {"kind": "TriggerAuthentication", "metadata": {"name": "orders"}, "spec": {
                "env": [{"name": "CONNECT_KAFKA_SASL_USERNAME", "containerName": "connector"}],
                "secretTargetRef": [{"name": "kafka", "key": "password"}]}},
        });
        change(&mut all);
        let source = json!({"secret": {"name": "kafka", "items": [{"key": "password", "path": "kafka/password"}]}});
        let spec = json!({"containers": [{"name": "connector"}], "volumes": [{"projected": {"sources": [source]}}]});
        let variables = [
            ("CONNECT_NAME", "orders"),
            ("CONNECT_KAFKA_BROKERS", "kafka:9"),
            ("CONNECT_KAFKA_TOPICS", topics),
            ("CONNECT_KAFKA_SASL_USERNAME", "u"),
        ];
        let pods = Pods {
            kind: "Deployment",
            name: "orders".to_owned(),
            metadata: &Value::Null,
            spec: &spec,
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        };
        problems(&all["scaled"], &[&all["authentication"]], &[pods])
    }

    #[test]
    fn right_scaling_has_no_problem_and_each_wrong_one_has_its_own() {
        assert_eq!(found("a,b", |_| {}), Vec::<String>::new());
        for (pointer, value, problem) in [
            ("/scaled/spec/scaleTargetRef/kind", json!("StatefulSet"), "which isn't there"),
            ("/scaled/spec/triggers/0/metadata/consumerGroup", json!("x"), "consumerGroup is not orders"),
            ("/scaled/spec/triggers/1/metadata/bootstrapServers", json!("x"), "bootstrapServers is not kafka:9"),
            ("/scaled/spec/triggers/1/metadata/topic", json!("c"), "and the pods read a,b"),
            ("/scaled/spec/triggers/1/authenticationRef", Value::Null, "authentication null isn't there"),
            ("/authentication/metadata/name", json!("other"), "authentication \"orders\" isn't there"),
            ("/authentication/spec", Value::Null, "nothing in it"),
            ("/authentication/spec/env/0/name", json!("CONNECT_X"), "the pods have no CONNECT_X"),
            ("/authentication/spec/env/0/containerName", json!("x"), "the pods have no CONNECT_KAFKA_SASL_USERNAME in"),
            ("/authentication/spec/secretTargetRef/0/key", json!("x"), "takes \"x\" of \"kafka\""),
        ] {
            let problems = found("a,b", |all| *all.pointer_mut(pointer).expect(pointer) = value.clone());
            assert!(problems.iter().any(|text| text.contains(problem)), "{pointer}: {problems:?}");
        }
    }

    #[test]
    fn a_pattern_is_one_whatever_commas_it_holds() {
        let triggers = |topics: &[&str]| {
            found("^a{2,4}$", |all| {
                let one = all["scaled"]["spec"]["triggers"][0].clone();
                let triggers = topics.iter().map(|topic| {
                    let mut trigger = one.clone();
                    trigger["metadata"]["topic"] = if topic.is_empty() { Value::Null } else { json!(topic) };
                    trigger
                });
                all["scaled"]["spec"]["triggers"] = triggers.collect();
            })
        };
        assert_eq!(triggers(&[""]), Vec::<String>::new());
        assert_eq!(triggers(&["", "4}$"]).len(), 1);
    }
}
