//! How an OCI image wants to be run. A VM is no container: it has an init and a workspace of its own. So commands get the image's
//! variables, and the rest is told and not followed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Listed;
use banger_contract::image::RunConfig;
use banger_contract::types::Environment;

/// What is the VM's to say: what a login sets.
const OF_THE_LOGIN: [&str; 8] = ["HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "HOSTNAME", "TERM"];

/// How many variables that are left out a note names.
const MAX_NAMED: usize = 5;

/// The same as an image's configuration has it (OCI image specification, "config"). Anything may be `null`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Wanted {
    env: Option<Listed<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Listed<String>>,
    cmd: Option<Listed<String>>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

impl Wanted {
    /// What of it is recorded, and what the image's owner should know.
    pub(super) fn checked(self) -> (RunConfig, Vec<String>) {
        let mut env = Environment::default();
        let mut left_out = Vec::new();
        for variable in self.env.unwrap_or_default().0 {
            // A name alone takes the value that it has where the container is started: none.
            let Some((name, value)) = variable.split_once('=') else { continue };
            if OF_THE_LOGIN.contains(&name) {
                continue;
            }
            left_out.extend(env.set(name, value).err());
        }
        let mut notes: Vec<String> = left_out
            .iter()
            .take(MAX_NAMED)
            .map(|why| format!("left out of its environment: {why}"))
            .collect();
        if left_out.len() > MAX_NAMED {
            notes.push(format!("{} more variables are left out", left_out.len() - MAX_NAMED));
        }
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let run = RunConfig {
            env,
            user: some(self.user),
            working_dir: some(self.working_dir),
            entrypoint: self.entrypoint.unwrap_or_default().0,
            cmd: self.cmd.unwrap_or_default().0,
        };
        (run, notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: &str) -> (RunConfig, Vec<String>) {
        serde_json::from_str::<Wanted>(json).unwrap().checked()
    }

    #[test]
    fn what_an_image_says_is_taken_over() {
        let (run, notes) = checked(
            r#"{"Env":["PATH=/go/bin:/bin","A=1=2","A=3","ALONE","HOME=/app"],"User":"app:www","WorkingDir":"/app",
            "Entrypoint":["/run","it"],"Cmd":null,"Labels":{"a":"b"},"ExposedPorts":{"80/tcp":{}}}"#,
        );
        let env: Vec<_> = run.env.variables().iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["A=3", "PATH=/go/bin:/bin"]);
        assert_eq!((run.user.as_deref(), run.working_dir.as_deref()), (Some("app:www"), Some("/app")));
        assert_eq!((run.entrypoint, run.cmd, notes), (vec!["/run".into(), "it".into()], vec![], vec![]));
        assert_eq!(checked(r#"{"Env":null,"User":"","WorkingDir":""}"#), Default::default());
    }

    #[test]
    fn variables_that_no_shell_takes_are_named_and_left_out() {
        let (run, notes) = checked(r#"{"Env":["npm.x=1","=x","A=\u0000","B=\u001b[2J","GOOD=1"]}"#);
        assert_eq!(run.env.variables().len(), 1);
        assert_eq!(notes.len(), 4);
        assert!(notes[0].contains("npm.x") && notes[3].contains("variable B"), "{notes:?}");
        let many: Vec<String> = (0..10_000).map(|i| format!("{i}=x")).collect();
        let wanted = Wanted { env: Some(Listed(many)), ..Wanted::default() };
        assert_eq!(wanted.checked().1.len(), MAX_NAMED + 1);
    }
}
