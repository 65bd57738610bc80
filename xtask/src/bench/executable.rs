//! The executable under test: built when none is named, its size, and whether it needs a dynamic linker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// Program header type PT_INTERP (elf(5)): the file names a dynamic linker.
const PT_INTERP: u32 = 3;

#[derive(Debug, Serialize)]
pub(super) struct Executable {
    pub(super) path: PathBuf,
    pub(super) version: String,
    pub(super) bytes: u64,
    #[serde(rename = "static")]
    pub(super) is_static: bool,
}

/// A line of cargo's JSON messages; all but artifacts of executables lack what is asked for here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

pub(super) fn find(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => build()?,
    };
    path.canonicalize().with_context(|| format!("find {}", path.display()))
}

fn build() -> anyhow::Result<PathBuf> {
    super::progress("cargo build --release -p rk");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "-p", "rk", "--message-format=json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo build: {}", output.status);
    let lines = String::from_utf8(output.stdout).context("read cargo's messages")?;
    let messages = lines.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let mut built = messages.filter(|message| message.target.as_ref().is_some_and(|target| target.name == "rk"));
    match built.find_map(|message| message.executable) {
        Some(path) => Ok(path),
        None => bail!("cargo build made no executable rk"),
    }
}

pub(super) fn describe(path: &Path) -> anyhow::Result<Executable> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let version = rk_tests::process::check(Command::new(path).arg("--version"), None)?;
    Ok(Executable {
        path: path.to_owned(),
        version: version.trim().to_owned(),
        bytes: u64::try_from(bytes.len())?,
        is_static: !has_interpreter(&bytes).context("the executable is no 64-bit little-endian ELF file")?,
    })
}

/// Whether a program header asks for an interpreter. Offsets are those of `Elf64_Ehdr` and `Elf64_Phdr`.
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let half = |at: usize| elf.get(at..at + 2).map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    let mut types = (0..count).map(|index| {
        let at = table + index * size;
        elf.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    });
    Some(types.any(|kind| kind == Some(PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(segment: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        bytes
    }

    #[test]
    fn an_interpreter_segment_makes_an_executable_dynamic() {
        assert_eq!(has_interpreter(&elf(1)), Some(false));
        assert_eq!(has_interpreter(&elf(PT_INTERP)), Some(true));
        assert_eq!(has_interpreter(b"#!/bin/sh"), None);
    }
}
