//! The executable itself. That this test exists also makes `cargo test --workspace` build the executable, which the
//! black-box suite in `tests/` runs.
#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn the_executable_says_its_version_and_commands() {
    let run = |argument: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_rk")).arg(argument).output().expect("run rk");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(run("--version"), format!("rk {}\n", env!("CARGO_PKG_VERSION")));
    let help = run("--help");
    for command in ["server", "agent", "images", "token", "kill-all"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
}
