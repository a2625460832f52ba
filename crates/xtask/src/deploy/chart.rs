//! The chart and the Kustomize base: rendered for every example, linted, and held to the API's schemas.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    pods,
    reference::Chapter,
    release,
    tools::{Tools, output, succeed},
};
use crate::paths;

/// Kubernetes versions that the objects are validated against: the oldest that the chart admits, and later ones.
const VERSIONS: &str = "1.29,1.31,1.34,1.37";
/// Helm asks for one when no cluster is there.
const HELM_VERSION: &str = "1.33.0";
const CHART: &str = "deploy/chart";

/// An object that Helm or Kustomize made, and the file of values behind it.
#[derive(Debug)]
pub struct Rendered {
    /// The name of the file of values or of the overlay.
    pub source: String,
    /// The object.
    pub object: Value,
}

/// Checks everything about the chart and the base; what they make.
///
/// # Errors
/// What is wrong with which file.
pub fn check(tools: &Tools, chapters: &[Chapter]) -> Result<Vec<Rendered>> {
    let directory = tempfile::tempdir()?;
    let mut files = Vec::new();
    for values in examples("deploy/chart/ci")? {
        let mut lint = tools.helm();
        succeed(&format!("helm lint of {}", values.display()), lint_arguments(&mut lint).arg(&values))?;
        let text = output(&format!("helm template of {}", values.display()), render(&mut tools.helm(), &values))?;
        as_told(&values, &text)?;
        files.push(keep(directory.path(), &values, &text)?);
    }
    let count = files.len();
    for overlay in overlays()? {
        let mut build = tools.kustomize();
        let text = output(&format!("kustomize build {}", overlay.display()), build.arg("build").arg(&overlay))?;
        files.push(keep(directory.path(), &overlay, &text)?);
    }
    let objects = validate(tools, &files)?;
    pods::check(&objects, chapters)?;
    release::check(&objects)?;
    let refused = refuse(tools)?;
    println!(
        "{count} value files and {} overlays make {} objects, valid for Kubernetes {VERSIONS}; {refused} wrong value files are refused",
        files.len() - count,
        objects.len()
    );
    Ok(objects)
}

fn lint_arguments(command: &mut Command) -> &mut Command {
    command.args(["lint", "--strict", "--quiet", "--kube-version", HELM_VERSION, CHART, "--values"])
}

fn render<'a>(command: &'a mut Command, values: &Path) -> &'a mut Command {
    command
        .args(["template", "orders", CHART, "--namespace", "shop", "--kube-version", HELM_VERSION, "--values"])
        .arg(values)
}

/// What a file of values says in its comments about what it makes: `# renders: TEXT`, and `# renders no: TEXT`.
fn as_told(values: &Path, rendered: &str) -> Result<()> {
    let text = fs::read_to_string(values)?;
    let wrong = untold(&text, rendered);
    if !wrong.is_empty() {
        bail!("{}: it is not so that it {}", values.display(), wrong.join("; that it "));
    }
    Ok(())
}

fn untold<'a>(values: &'a str, rendered: &str) -> Vec<&'a str> {
    let told =
        values.lines().filter_map(|line| line.split_once("# renders").map(|(before, _)| &line[before.len() + 2..]));
    told.filter(|told| match told.split_once(": ") {
        Some(("renders", text)) => !rendered.contains(text),
        Some(("renders no", text)) => rendered.contains(text),
        _ => true,
    })
    .collect()
}

/// The YAML files of a directory, in order.
fn examples(directory: &str) -> Result<Vec<PathBuf>> {
    let directory = paths::workspace().join(directory);
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("{} holds no YAML file", directory.display());
    }
    Ok(files)
}

/// The overlays on the base, which is nothing by itself.
fn overlays() -> Result<Vec<PathBuf>> {
    let mut overlays: Vec<_> = fs::read_dir(paths::workspace().join("deploy/kustomize"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("kustomization.yaml").exists() && !path.ends_with("base"))
        .collect();
    overlays.sort();
    Ok(overlays)
}

fn keep(directory: &Path, source: &Path, text: &str) -> Result<PathBuf> {
    let name = source.file_stem().context("a file without a name")?;
    let file = directory.join(name).with_extension("yaml");
    fs::write(&file, text)?;
    Ok(file)
}

/// Holds the files to the schemas of the API and of the custom resources.
fn validate(tools: &Tools, files: &[PathBuf]) -> Result<Vec<Rendered>> {
    let mut python = tools.python();
    python.arg("deploy/checks/resources.py").arg(VERSIONS).args(files);
    let json = output("validation of the objects", &mut python)?;
    custom_resources(tools, &json)?;
    let entries: Vec<Value> = serde_json::from_str(&json)?;
    let rendered = entries.into_iter().map(|mut entry| {
        let path = entry["file"].as_str().unwrap_or_default().to_owned();
        let source = Path::new(&path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Rendered { source, object: entry["resource"].take() }
    });
    Ok(rendered.collect())
}

fn custom_resources(tools: &Tools, json: &str) -> Result<()> {
    let mut node = tools.node();
    node.arg("deploy/checks/custom-resources.mjs").arg(tools.node_modules());
    let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It reads all of its input before it writes anything.
    child.stdin.take().context("no input")?.write_all(json.as_bytes())?;
    let result = child.wait_with_output()?;
    if !result.status.success() {
        bail!("custom resources are wrong:\n{}", String::from_utf8_lossy(&result.stderr));
    }
    let validated: usize = String::from_utf8_lossy(&result.stdout).trim().parse()?;
    if validated == 0 {
        bail!("no value file makes a custom resource, so none was validated");
    }
    Ok(())
}

/// Values that are wrong on purpose: each says in its first line, behind `# refused:`, what the error must name.
fn refuse(tools: &Tools) -> Result<usize> {
    let files = examples("deploy/chart/ci/refused")?;
    for values in &files {
        let text = fs::read_to_string(values)?;
        let reason = text.lines().next().and_then(|line| line.strip_prefix("# refused: "));
        let reason = reason.with_context(|| format!("{}: no `# refused: ` in the first line", values.display()))?;
        let result = render(&mut tools.helm(), values).output()?;
        let said = String::from_utf8_lossy(&result.stderr);
        if result.status.success() {
            bail!("{}: helm template takes what should be refused for {reason:?}", values.display());
        }
        if !said.contains(reason) {
            bail!("{}: refused, but not for {reason:?}:\n{said}", values.display());
        }
    }
    Ok(files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_file_and_not_so_is_named() {
        let values =
            "# A release.\nrate: 1 # renders: value: \"1\"\n# renders no: user\n# renders nothing of this form\n";
        assert_eq!(untold(values, "- value: \"1\""), ["renders nothing of this form"]);
        let all = ["renders: value: \"1\"", "renders no: user", "renders nothing of this form"];
        assert_eq!(untold(values, "user: 1"), all);
    }
}
