//! The files of a pod: where a variable says that one is, it is mounted, and what is mounted is meant by a variable.

use serde_json::Value;

use super::{
    pods::{list, text},
    release::Pods,
};

/// A file that is mounted, or a directory whose files have names that nobody here knows.
#[derive(Debug, PartialEq, Eq)]
enum Mounted {
    File(String),
    Directory(String),
}

/// What is wrong with the files of these pods, among the objects of their release.
pub fn problems(pods: &Pods, objects: &[&Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let mounted = mounted(pods.spec);
    for (name, value) in &pods.variables {
        if !name.ends_with("_FILE") {
            continue;
        }
        let there = mounted.iter().any(|one| match one {
            Mounted::File(path) => path == value,
            Mounted::Directory(path) => value.rsplit_once('/').is_some_and(|(directory, _)| directory == path),
        });
        if !there {
            problems.push(format!("{name} is {value}, where nothing is mounted"));
        }
    }
    for one in &mounted {
        if let Mounted::File(path) = one
            && !pods.variables.iter().any(|(_, value)| value == path)
        {
            problems.push(format!("{path} is mounted, and no variable says so"));
        }
    }
    for (map, key) in config_maps(pods.spec) {
        problems.extend(map_problem(pods, objects, &map, &key));
    }
    problems
}

fn mounted(spec: &Value) -> Vec<Mounted> {
    let mut all = Vec::new();
    for mount in list(&spec["containers"][0]["volumeMounts"]) {
        let at = text(&mount["mountPath"]);
        let volume = list(&spec["volumes"]).iter().find(|volume| volume["name"] == mount["name"]);
        let Some(volume) = volume else { continue };
        if volume["projected"].is_null() {
            all.push(Mounted::Directory(at));
            continue;
        }
        for item in sources(volume).flat_map(|source| list(&source["items"])) {
            all.push(Mounted::File(format!("{at}/{}", text(&item["path"]))));
        }
    }
    all
}

fn sources(volume: &Value) -> impl Iterator<Item = &Value> {
    list(&volume["projected"]["sources"]).iter().flat_map(|source| [&source["secret"], &source["configMap"]])
}

/// Names and keys of the ConfigMaps that files are taken from.
fn config_maps(spec: &Value) -> Vec<(String, String)> {
    let sources = list(&spec["volumes"]).iter().flat_map(|volume| list(&volume["projected"]["sources"]));
    let maps = sources.map(|source| &source["configMap"]).filter(|map| map.is_object());
    maps.flat_map(|map| list(&map["items"]).iter().map(|item| (text(&map["name"]), text(&item["key"])))).collect()
}

/// A ConfigMap of the release itself: it has the key, is there in time, and a change of it starts the pods anew.
fn map_problem(pods: &Pods, objects: &[&Value], name: &str, key: &str) -> Option<String> {
    let is_it = |object: &&&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == name;
    let Some(map) = objects.iter().find(is_it) else {
        // That of another is none of ours.
        return (name == pods.name).then(|| format!("the ConfigMap {name} isn't made"));
    };
    if map["data"][key].is_null() {
        return Some(format!("the ConfigMap {name} has no {key}"));
    }
    if pods.are_a_check() {
        return map["metadata"]["annotations"]["helm.sh/hook"]
            .is_null()
            .then(|| format!("the ConfigMap {name} isn't there yet when the check runs"));
    }
    pods.metadata["annotations"]["checksum/files"]
        .is_null()
        .then(|| format!("a change in the ConfigMap {name} doesn't start the pods anew"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(change: impl Fn(&mut Value, &mut Value)) -> Vec<String> {
        let secret = json!({"secret": {"name": "s", "items": [{"key": "k", "path": "redis/password"}]}});
        let own =
            json!({"configMap": {"name": "orders", "items": [{"key": "kafka.ca_file", "path": "kafka/ca_file"}]}});
        let mut template = json!({"metadata": {"annotations": {"checksum/files": "0"}}, "spec": {
            "containers": [{"volumeMounts": [{"name": "files", "mountPath": "/etc/connect"}]}],
            "volumes": [{"name": "files", "projected": {"sources": [secret, own]}}],
        }});
        let mut map = json!({"kind": "ConfigMap", "metadata": {"name": "orders"}, "data": {"kafka.ca_file": "…"}});
        change(&mut template, &mut map);
        let variables = [
            ("CONNECT_REDIS_PASSWORD_FILE", "/etc/connect/redis/password"),
            ("CONNECT_KAFKA_CA_FILE", "/etc/connect/kafka/ca_file"),
        ];
        let pods = Pods {
            kind: "Deployment",
            name: "orders".to_owned(),
            metadata: &template["metadata"],
            spec: &template["spec"],
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        };
        problems(&pods, &[&map])
    }

    #[test]
    fn right_files_have_no_problem_and_each_wrong_one_has_its_own() {
        assert_eq!(found(|_, _| {}), Vec::<String>::new());
        for (pointer, value, problem) in [
            (
                "/spec/containers/0/volumeMounts/0/mountPath",
                json!("/etc"),
                "CONNECT_REDIS_PASSWORD_FILE is /etc/connect",
            ),
            ("/spec/containers/0/volumeMounts", json!([]), "where nothing is mounted"),
            (
                "/spec/volumes/0/projected/sources/0/secret/items/0/path",
                json!("p"),
                "/etc/connect/p is mounted, and no",
            ),
            ("/spec/volumes/0/projected/sources/1/configMap/items/0/key", json!("k"), "orders has no k"),
            ("/metadata/annotations", json!({}), "doesn't start the pods anew"),
        ] {
            let problems = found(|template, _| *template.pointer_mut(pointer).expect(pointer) = value.clone());
            assert!(problems.iter().any(|text| text.contains(problem)), "{pointer}: {problems:?}");
        }
        let renamed = found(|_, map| map["metadata"]["name"] = json!("other"));
        assert_eq!(renamed, ["the ConfigMap orders isn't made"]);
    }

    #[test]
    fn a_check_takes_what_is_there_before_it() {
        let check = |annotations: Value| {
            found(|template, map| {
                template["spec"]["containers"][0]["args"] = json!(["check"]);
                map["metadata"]["annotations"] = annotations.clone();
            })
        };
        assert_eq!(check(json!({"helm.sh/hook": "pre-install"})), Vec::<String>::new());
        assert_eq!(check(Value::Null), ["the ConfigMap orders isn't there yet when the check runs"]);
    }
}
