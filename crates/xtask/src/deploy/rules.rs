//! The alerts of a release: each looks at this release alone.

use serde_json::Value;

use super::{
    expressions::metrics,
    pods::{list, text},
};

/// What is wrong with a PrometheusRule.
pub fn problems(object: &Value) -> Vec<String> {
    let (namespace, release) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    let mut problems = Vec::new();
    for rule in list(&object["spec"]["groups"]).iter().flat_map(|group| list(&group["rules"])) {
        let expression = text(&rule["expr"]);
        if !is_narrow(&expression, &namespace, &release) {
            problems.push(format!("{} looks at other releases, too: {expression}", rule["alert"]));
        }
    }
    problems
}

/// Whether each metric is chosen by the namespace and by the release: by its name as a label, or by the names of its pods.
fn is_narrow(expression: &str, namespace: &str, release: &str) -> bool {
    let metrics = metrics(expression, &["connect_", "process_", "kube_"]);
    let narrow = |braces: &str| {
        let has = |label: &str, value: &str| braces.split(',').any(|one| one == format!("{label}=\"{value}\""));
        let by_pods = format!("pod=~\"{release}(");
        has("namespace", namespace) && (has("connector", release) || braces.contains(&by_pods))
    };
    !metrics.is_empty() && metrics.iter().all(|(_, braces)| braces.is_some_and(narrow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_a_release_chooses_it_in_each_metric() {
        let narrow = |expression: &str| is_narrow(expression, "shop", "orders");
        let own = "connect_lag{namespace=\"shop\",connector=\"orders\"}";
        assert!(narrow(&format!("sum({own}) > 1 and deriv({own}[5m]) > 0")));
        assert!(narrow("increase(kube_x{namespace=\"shop\",pod=~\"orders(-[a-z]{5},?)\"}[5m])"));
        assert!(!narrow("kube_x{pod=~\"orders(-[a-z]{5})\",other=\"1\"}"), "of any namespace");
        assert!(!narrow("1 > 0"), "nothing is chosen");
        for wide in [
            "connect_lag > 1",
            "connect_lag{connector=~\".+\"}",
            "connect_lag{connector!=\"\"}",
            "connect_lag{connector=\"orders\"}",
            "connect_lag{namespace=\"shop\",connector=\"orders-eu\"}",
            "kube_x{namespace=\"shop\",container=\"connector\"}",
        ] {
            assert!(!narrow(wide) && !narrow(&format!("{own} and {wide}")), "{wide}");
        }
    }
}
