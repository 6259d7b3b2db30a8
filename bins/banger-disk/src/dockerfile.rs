//! Building a container image from a Dockerfile, through whichever program for that is there: its archive is then imported like any
//! other.

use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::{Exec, ExecError, find_program};
use banger_host::random;

/// How long a build may take.
const BUILD: Duration = Duration::from_secs(4 * 3600);

/// How long it may take to write the archive.
const SAVE: Duration = Duration::from_secs(3600);

/// The programs, in the order in which they are looked for: those that need no daemon first.
const TOOLS: [Tool; 3] = [Tool::Buildah, Tool::Podman, Tool::Docker];

/// A program that builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// buildah(1)
    Buildah,
    /// podman(1)
    Podman,
    /// docker(1)
    Docker,
}

/// An image that cannot be built.
#[derive(Debug, Error)]
pub enum DockerfileError {
    /// No such program is there.
    #[error("none of buildah, podman and docker is installed")]
    None,
    /// It failed.
    #[error("{program} failed to {what}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it was to do.
        what: &'static str,
        /// What it said.
        #[source]
        source: ExecError,
    },
}

impl Coded for DockerfileError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::None => ErrorCode::Unsupported,
            Self::Failed { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::None).then(|| "install one of them, such as with: apt install buildah".into())
    }
}

impl Tool {
    /// The first that is installed.
    ///
    /// # Errors
    /// [`DockerfileError::None`].
    pub fn find() -> Result<Self, DockerfileError> {
        let there = |tool: &Tool| find_program(tool.program().as_ref()).is_some();
        TOOLS.into_iter().find(there).ok_or(DockerfileError::None)
    }

    /// Its name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// Builds `file` with the files of `context` (absolute paths), and writes the image to `archive`, which is not there. The program
    /// keeps the layers as its cache, not the image. `proxies` are the variables about a proxy that are set: buildah and podman hand them to
    /// what they run by themselves, docker those that are named, without the values, which arguments would show.
    ///
    /// # Errors
    /// [`DockerfileError::Failed`].
    pub fn build(
        self,
        file: &Path,
        context: &Path,
        archive: &Path,
        proxies: &[&str],
    ) -> Result<(), DockerfileError> {
        let hex: String = random::bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let tag = format!("localhost/banger-build-{hex}:latest");
        let run = |what: &'static str, exec: Exec, deadline: Duration| {
            let ran = exec.deadline(deadline).stderr_limit(16 << 10).run();
            ran.map(drop).map_err(|source| DockerfileError::Failed { program: self.program(), what, source })
        };
        let own = || Exec::new(self.program());
        let named = proxies.iter().filter(|_| matches!(self, Self::Docker));
        let build = own().arg("build").args(named.flat_map(|name| ["--build-arg", *name]));
        run("build the image", build.args(["--tag", &tag, "--file"]).arg(file).arg(context), BUILD)?;
        let save = match self {
            Self::Buildah => own().args(["push", &tag]).arg(format!("oci-archive:{}", archive.display())),
            Self::Podman => {
                own().args(["save", "--format", "oci-archive", "--output"]).arg(archive).arg(&tag)
            }
            Self::Docker => own().args(["save", "--output"]).arg(archive).arg(&tag),
        };
        let saved = run("write the image", save, SAVE);
        // Nobody knows the name but this function: what is left of it where this fails is one image among the program's own.
        let _ = run("remove the image", own().args(["rmi", &tag]), SAVE);
        saved
    }
}
