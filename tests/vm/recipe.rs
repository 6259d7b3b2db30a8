//! The recipe `dev`, with a real guest. `tests/run` builds the image where `BANGER_TEST_MISE` names a mise.

use crate::home::{self, Home, git, said};
use crate::support;

#[test]
fn a_guest_of_the_recipe_dev_has_its_tools() {
    let image = home::prepared().join("images/debian-dev/manifest.json");
    let reason =
        "BANGER_TEST_DIR has no image debian-dev: tests/run builds it where BANGER_TEST_MISE names a mise";
    if !support::require("mise", image.exists(), reason) {
        return;
    }
    let Some(home) = Home::with_image("debian-dev") else { return };
    let repo = home.repo("repo");
    std::fs::write(repo.join("mise.toml"), "[env]\nFROM_MISE = \"yes\"\n").unwrap();
    git(&repo, &["add", "-A"]);
    let repo = repo.to_str().unwrap();
    let run = ["vm", "run", "--image", "debian-dev", "--name", "dev1", repo, "--", "true"];
    let output = home.run(&run);
    assert!(output.status.success(), "{}", said(&output));
    for (command, begins) in [
        ("tmux -V", "tmux "),
        ("cc --version", "cc "),
        ("pkg-config --version", ""),
        ("python3 --version", "Python 3"),
        ("mise --version", "20"),
        ("echo $FROM_MISE", "yes\n"),
        ("echo 'int main(void) { return 7; }' | cc -x c - -o /tmp/a; /tmp/a; echo $?", "7\n"),
    ] {
        let output = home.run(&["vm", "exec", "dev1", "--", "sh", "-c", command]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && told.starts_with(begins), "{command}: {}", said(&output));
    }
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}
