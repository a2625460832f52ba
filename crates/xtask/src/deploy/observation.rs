//! Alerts and dashboards: what Prometheus would say to them, and whether the metrics exist that they ask for.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    chart::Rendered,
    expressions::{Asked, asked},
    pods::list,
    tools::{Tools, output, succeed},
};
use crate::paths;

const ALERTS: &str = "deploy/alerts/connect.yaml";
const ALERT_TESTS: &str = "deploy/alerts/connect.test.yaml";
const DASHBOARD: &str = "deploy/dashboards/connect.json";

/// Checks the alerts, those of each release that was rendered too, and the dashboard.
///
/// # Errors
/// What is wrong with which file.
pub fn check(tools: &Tools, rendered: &[Rendered]) -> Result<()> {
    succeed("promtool check rules", tools.promtool().args(["check", "rules", "--lint-fatal", ALERTS]))?;
    succeed("promtool test rules", tools.promtool().args(["test", "rules", ALERT_TESTS]))?;
    narrowed(tools, rendered)?;
    let expressions = dashboard_expressions()?;
    let rules: Vec<_> = expressions
        .iter()
        .enumerate()
        .map(|(number, expression)| json!({"record": format!("dashboard:{number}"), "expr": expression}))
        .collect();
    // JSON is YAML.
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    fs::write(file.path(), json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string())?;
    output("promtool on the dashboard", tools.promtool().args(["check", "rules", "--lint-fatal"]).arg(file.path()))?;
    check_names()?;
    println!("{} expressions of the dashboard are PromQL; every metric asked for exists", expressions.len());
    Ok(())
}

/// The chart replaces text within the expressions, and what comes out must be some, too.
fn narrowed(tools: &Tools, rendered: &[Rendered]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut promtool = tools.promtool();
    promtool.args(["check", "rules", "--lint-fatal"]);
    let rules: Vec<_> = rendered.iter().filter(|one| one.object["kind"] == "PrometheusRule").collect();
    if rules.is_empty() {
        bail!("no file of values makes alerts");
    }
    for one in rules {
        let file = directory.path().join(&one.source).with_extension("yaml");
        fs::write(&file, one.object["spec"].to_string())?;
        promtool.arg(file);
    }
    output("promtool on the alerts of a release", &mut promtool).map(drop)
}

/// Every metric that an alert or a panel asks for is one that the code makes.
///
/// # Errors
/// The names that nothing makes.
pub fn check_names() -> Result<()> {
    let made = made()?;
    for file in [ALERTS, DASHBOARD] {
        let unknown: Vec<_> = asked(&read(file)?).into_keys().filter(|name| !made.contains(base(name))).collect();
        if !unknown.is_empty() {
            bail!("{file}: no such metric in the code: {}", unknown.join(", "));
        }
    }
    Ok(())
}

/// The metrics that alerts and dashboard ask for, and their labels.
///
/// # Errors
/// A file can't be read.
pub fn asked_for() -> Result<Asked> {
    Ok(asked(&format!("{}\n{}", read(ALERTS)?, read(DASHBOARD)?)))
}

/// The expressions of all panels, with Grafana's own variables replaced as Grafana does.
///
/// # Errors
/// The dashboard can't be read, or a panel has no expression.
pub fn dashboard_expressions() -> Result<Vec<String>> {
    let text = fs::read_to_string(paths::workspace().join(DASHBOARD)).context(DASHBOARD)?;
    let dashboard: Value = serde_json::from_str(&text).context(DASHBOARD)?;
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().context(DASHBOARD)? {
        let targets = list(&panel["targets"]);
        if targets.is_empty() && panel["type"] != "row" {
            bail!("{DASHBOARD}: the panel {} shows nothing", panel["title"]);
        }
        for target in targets {
            let expression = target["expr"].as_str().with_context(|| format!("{DASHBOARD}: {}", panel["title"]))?;
            let expression = expression.replace("$__rate_interval", "5m").replace("$__range", "1h");
            expressions.push(
                ["$namespace", "$connector", "$topic"].iter().fold(expression, |text, name| text.replace(name, ".*")),
            );
        }
    }
    Ok(expressions)
}

/// A file with the quotes of its expressions as they are, not as JSON has them.
fn read(file: &str) -> Result<String> {
    let text = fs::read_to_string(paths::workspace().join(file)).with_context(|| file.to_owned())?;
    Ok(if file == DASHBOARD { text.replace("\\\"", "\"") } else { text })
}

/// A histogram's series are named after it.
fn base(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// The names in the macros of the core's code, and those of the process, which a library makes.
fn made() -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = ["cpu_seconds_total", "resident_memory_bytes", "start_time_seconds"]
        .map(|name| format!("process_{name}"))
        .into_iter()
        .collect();
    gather(&paths::workspace().join("crates/connect-core/src"), &mut names)?;
    Ok(names)
}

fn gather(directory: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            gather(&path, names)?;
        } else {
            let code = fs::read_to_string(&path)?;
            for made in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
                let found = code.match_indices(made).map(|(at, _)| &code[at + made.len()..]);
                names.extend(found.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_and_dashboard_ask_only_for_metrics_that_exist() {
        check_names().unwrap();
        let asked = asked_for().unwrap();
        assert!(asked.len() > 10);
        // One of the alerts, one of the dashboard.
        assert!(asked["connect_retries_total"].contains(&("reason".to_owned(), Some("out_of_step".to_owned()))));
        assert!(asked["connect_write_seconds_bucket"].contains(&("le".to_owned(), None)));
    }

    #[test]
    fn a_histogram_is_known_by_its_series() {
        assert_eq!(base("connect_write_seconds_bucket"), "connect_write_seconds");
        assert!(!made().unwrap().contains("connect_no_such_metric"));
    }
}
