//! Puts an Elasticsearch together: from Maven artifacts where no archive is to be had, or none with security, from the archive otherwise.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    archive::{unzip, zip},
    java,
    lock::Lock,
    maven, paths,
};

/// What a module says about itself.
const DESCRIPTOR: &str = "plugin-descriptor.properties";

/// A node's home directory, as a distribution has it: `lib`, `modules`, `plugins`. The archive has no security.
pub(super) fn home(version: &str, secured: bool) -> Result<PathBuf> {
    let archive = version == super::VERSION_8 && !secured;
    let suffix = if secured && version == super::VERSION_8 { "-secured" } else { "" };
    let directory = paths::services().join(format!("elasticsearch-{version}{suffix}"));
    let home = directory.join("home");
    // Written last, so an installation that was cut short is begun anew.
    let done = directory.join(".done");
    if done.exists() {
        return Ok(home);
    }
    let _lock = Lock::acquire(&paths::services().join("elasticsearch.lock"), "installing Elasticsearch")?;
    if done.exists() {
        return Ok(home);
    }
    eprintln!("installing Elasticsearch {version}");
    let install = Install { version, directory: &directory, home: &home };
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("can't remove {}", home.display()))?;
    }
    fs::create_dir_all(home.join("plugins"))?;
    if archive {
        install.unpack_archive()?;
    } else {
        install.copy_artifacts()?;
    }
    install.entry_point()?;
    fs::write(&done, "").with_context(|| format!("can't write {}", done.display()))?;
    Ok(home)
}

struct Install<'a> {
    version: &'a str,
    directory: &'a Path,
    home: &'a Path,
}

impl Install<'_> {
    fn unpack_archive(&self) -> Result<()> {
        let artifact = format!("org.elasticsearch.distribution.integ-test-zip:elasticsearch:{}:zip", self.version);
        maven::copy(&artifact, self.directory)?;
        let name = format!("elasticsearch-{}", self.version);
        let unpacked = self.directory.join(&name);
        unzip(&self.directory.join(format!("{name}.zip")), self.directory)?;
        for part in ["lib", "modules"] {
            fs::rename(unpacked.join(part), self.home.join(part))
                .with_context(|| format!("the archive of Elasticsearch {} has no {part}", self.version))?;
        }
        fs::remove_dir_all(unpacked)?;
        // It traces and needs an agent.
        fs::remove_dir_all(self.home.join("modules/apm"))?;
        for module in fs::read_dir(self.home.join("modules"))? {
            let descriptor = module?.path().join(DESCRIPTOR);
            write_descriptor(&descriptor, &descriptor)?;
        }
        Ok(())
    }

    fn copy_artifacts(&self) -> Result<()> {
        let lib = self.home.join("lib");
        self.part("org.elasticsearch", "elasticsearch", self.version, &lib)?;
        self.module("transport-netty4", &[])?;
        let core = self.module("x-pack-core", &[])?;
        let security = self.module("x-pack-security", &[&core])?;
        // Two bindings or two versions of one class in a module are refused; these come in through SAML.
        for entry in fs::read_dir(&security)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let unwanted =
                ["slf4j-api", "jcip-annotations-1.0-1", "jakarta.activation-api", "jakarta.xml", "listenable"];
            if unwanted.iter().any(|prefix| name.starts_with(prefix)) {
                fs::remove_file(path)?;
            }
        }
        self.saml_stubs(&security)?;
        self.plugin("analysis-lite", "LiteAnalysisPlugin", &self.compile("analysis")?)?;
        // Written for the interface of version 9; the archive of version 8 does without, too.
        match self.version {
            super::VERSION_8 => Ok(()),
            _ => self.plugin("rest-root", "RootPlugin", &self.compile("root")?),
        }
    }

    /// An entry point that runs as any user.
    fn entry_point(&self) -> Result<()> {
        zip(&self.compile("node")?, &self.home.join("lib/start-node.jar"))
    }

    /// The jars of one artifact and all it needs.
    fn part(&self, group: &str, artifact: &str, version: &str, directory: &Path) -> Result<()> {
        let properties = [("part.group", group), ("part.artifact", artifact), ("part.version", version)];
        maven::copy_dependencies("elasticsearch/pom.xml", &properties, directory)
    }

    /// A module: its jars without those that `lib` or the modules it `extends` have, and its descriptor, which is
    /// kept in its own jar.
    fn module(&self, name: &str, extends: &[&Path]) -> Result<PathBuf> {
        let directory = self.home.join("modules").join(name);
        self.part("org.elasticsearch.plugin", name, self.version, &directory)?;
        for shared in extends.iter().copied().chain([self.home.join("lib").as_path()]) {
            for entry in fs::read_dir(shared)? {
                let twice = directory.join(entry?.file_name());
                if twice.exists() {
                    fs::remove_file(twice)?;
                }
            }
        }
        let unpacked = self.directory.join("unpacked").join(name);
        unzip(&directory.join(format!("{name}-{}.jar", self.version)), &unpacked)?;
        let descriptor = unpacked.join(format!("META-INF/es-plugins/{name}/{DESCRIPTOR}"));
        write_descriptor(&descriptor, &directory.join(DESCRIPTOR))?;
        Ok(directory)
    }

    /// A module of our own, from compiled classes.
    fn plugin(&self, name: &str, class: &str, classes: &Path) -> Result<()> {
        let directory = self.home.join("modules").join(name);
        fs::create_dir_all(&directory)?;
        zip(classes, &directory.join(format!("{name}.jar")))?;
        let descriptor = format!(
            "name={name}\nversion={version}\ndescription=for tests\nelasticsearch.version={version}\njava.version=17\n\
             classname={class}\n",
            version = self.version
        );
        Ok(fs::write(directory.join(DESCRIPTOR), descriptor)?)
    }

    /// Interfaces that classes of the security module name, although nothing but SAML calls them.
    fn saml_stubs(&self, security: &Path) -> Result<()> {
        let sources = self.directory.join("saml");
        let names = [
            "org.opensaml.saml.saml2.core.StatusResponseType",
            "org.opensaml.saml.saml2.core.RequestAbstractType",
            "org.opensaml.core.xml.XMLObject",
        ];
        for name in names {
            let (package, class) = name.rsplit_once('.').context("a qualified name")?;
            let file = sources.join(format!("{}.java", name.replace('.', "/")));
            fs::create_dir_all(file.parent().unwrap_or(&sources))?;
            fs::write(file, format!("package {package}; public interface {class} {{}}\n"))?;
        }
        let classes = self.directory.join("classes/saml");
        java::compile(&java::runtime()?, 21, &self.home.join("lib"), &sources, &classes)?;
        zip(&classes, &security.join("saml-stubs.jar"))
    }

    /// Compiles one of the directories in `crates/xtask/services/elasticsearch`.
    fn compile(&self, name: &str) -> Result<PathBuf> {
        let sources = paths::workspace().join("crates/xtask/services/elasticsearch").join(name);
        let classes = self.directory.join("classes").join(name);
        java::compile(&java::runtime()?, 21, &self.home.join("lib"), &sources, &classes)?;
        Ok(classes)
    }
}

/// The descriptor without the name of a Java module: with a name, every jar would have to be a module.
fn write_descriptor(from: &Path, to: &Path) -> Result<()> {
    let text = fs::read_to_string(from).with_context(|| format!("can't read {}", from.display()))?;
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("modulename=")).collect();
    fs::write(to, lines.join("\n")).with_context(|| format!("can't write {}", to.display()))
}
