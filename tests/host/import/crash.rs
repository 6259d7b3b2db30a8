//! Imports that are killed or interrupted.

use std::io::Write;
use std::process::Stdio;

use super::World;
use crate::support::archive::Tar;
use crate::support::disk::names;
use crate::support::{self, assert_error, command, record, run};

/// System calls after which much is half done.
const CALLS: [(&str, u32); 6] =
    [("openat", 3), ("pwrite64", 40), ("ftruncate", 1), ("linkat", 2), ("fsync", 3), ("rename", 1)];

#[test]
fn a_killed_import_leaves_no_image_and_the_next_cleans() {
    let Some(world) = World::new() else { return };
    if !support::require("host", support::has("strace"), "killing at a system call needs strace") {
        return;
    }
    let tar = world.path("root.tar");
    std::fs::write(&tar, Tar::default().directory("usr").file("usr/f", &[7; 100_000]).end()).unwrap();
    let images = world.path("images");
    let mut killed = 0;
    for (call, when) in CALLS {
        {
            let mut strace = command("strace");
            strace.args(["-f", "-qq", "-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}"), "--"]);
            let inner = world.command(&["image", "import", tar.to_str().unwrap(), "new"]);
            strace.arg(inner.get_program()).args(inner.get_args()).env("BANGER_STATE_DIR", world.temp.path());
            let output = run(&mut strace, b"");
            let there: Vec<String> =
                names(&images).into_iter().filter(|name| !name.starts_with('.')).collect();
            if !output.status.success() {
                killed += 1;
                if there == ["debian", "new"] {
                    // It was killed when all was done: then it is whole.
                    let shown = record(&run(&mut world.command(&["image", "show", "new"]), b""));
                    assert_eq!(shown["missing"], serde_json::json!([]), "{call} {when}");
                }
            }
            let again = run(&mut world.command(&["image", "import", tar.to_str().unwrap(), "other"]), b"");
            assert!(again.status.success(), "{call} {when}: {}", String::from_utf8_lossy(&again.stderr));
            let after = names(&images);
            assert!(after.iter().all(|name| !name.starts_with('.')), "{call} {when}: {after:?}");
            for name in ["new", "other"] {
                assert!(run(&mut world.command(&["image", "delete", name]), b"").status.success());
            }
        }
    }
    assert!(killed > 3, "only {killed} were killed");
}

#[test]
fn an_interrupted_import_from_a_slow_pipe_ends_at_once() {
    let Some(world) = World::new() else { return };
    let mut import = world.command(&["image", "import", "-", "slow"]);
    let mut child =
        import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&Tar::default().file("a", b"x").bytes).unwrap();
    let begun = || names(&world.path("images")).iter().any(|name| name.starts_with(".tmp-"));
    support::eventually("it begins", begun);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    drop(pipe);
    assert_error(&output, 1, "interrupted");
    assert_eq!(names(&world.path("images")), ["debian"]);
}
