//! Device rules on the unified hierarchy, where the kernel asks a BPF program instead of reading a file.

use super::DeviceRule;
use crate::sys::bpf::{Instruction, attach_device_program};
use std::fs::File;
use std::io;
use std::path::Path;

// The program's context, `struct bpf_cgroup_dev_ctx`: access type (access << 16 | kind), major, minor.
const OFFSET_ACCESS: i16 = 0;
const OFFSET_MAJOR: i16 = 4;
const OFFSET_MINOR: i16 = 8;
const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

pub(super) fn attach(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    attach_device_program(&File::open(directory)?, &program(rules))
}

/// R2 kind, R3 access, R4 major, R5 minor; each rule either allows at once or falls through to the next.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        Instruction::load_word(2, 1, OFFSET_ACCESS),
        Instruction::mov_reg(3, 2),
        Instruction::and_imm(2, 0xffff),
        Instruction::shift_right(3, 16),
        Instruction::load_word(4, 1, OFFSET_MAJOR),
        Instruction::load_word(5, 1, OFFSET_MINOR),
    ];
    for rule in rules {
        let block = rule_block(rule);
        code.extend(block);
    }
    code.extend([Instruction::mov_imm(0, 0), Instruction::exit()]);
    code
}

fn rule_block(rule: &DeviceRule) -> Vec<Instruction> {
    let kind = if rule.kind == 'b' { KIND_BLOCK } else { KIND_CHAR };
    let allowed = rule.access.chars().fold(0, |bits, c| {
        bits | match c {
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            _ => ACCESS_MKNOD,
        }
    });
    // Checks jump to the end of the block when they fail; the distance is filled in below.
    let mut checks = vec![Check::NotEqual(2, kind)];
    if allowed != ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE {
        checks.push(Check::OtherBits(allowed));
    }
    for (register, number) in [(4, rule.major), (5, rule.minor)] {
        if let Some(number) = number {
            checks.push(Check::NotEqual(register, number.cast_signed()));
        }
    }
    let length: usize = checks.iter().map(Check::length).sum::<usize>() + 2;
    let mut code: Vec<Instruction> = Vec::with_capacity(length);
    for check in checks {
        let here = code.len() + check.length();
        let distance = i16::try_from(length - here).unwrap_or(i16::MAX);
        check.emit(distance, &mut code);
    }
    code.extend([Instruction::mov_imm(0, 1), Instruction::exit()]);
    code
}

enum Check {
    NotEqual(u8, i32),
    /// Access bits beyond these are wanted.
    OtherBits(i32),
}

impl Check {
    fn length(&self) -> usize {
        match self {
            Self::NotEqual(..) => 1,
            Self::OtherBits(_) => 3,
        }
    }

    fn emit(self, distance: i16, code: &mut Vec<Instruction>) {
        match self {
            Self::NotEqual(register, value) => code.push(Instruction::jump_not_equal(register, value, distance)),
            Self::OtherBits(allowed) => code.extend([
                Instruction::mov_reg(1, 3),
                Instruction::and_imm(1, !allowed),
                Instruction::jump_not_equal(1, 0, distance),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_failed_check_jumps_to_the_next_rule() {
        let rule = DeviceRule { kind: 'c', major: Some(1), minor: Some(3), access: "rw".into() };
        let block = rule_block(&rule);
        // kind, 3 for access, major, minor, then allow.
        assert_eq!(block.len(), 8);
        assert_eq!(block[0], Instruction::jump_not_equal(2, KIND_CHAR, 7));
        assert_eq!(block[5], Instruction::jump_not_equal(5, 3, 2));
    }

    #[test]
    fn what_no_rule_allows_is_denied() {
        let code = program(&[]);
        assert_eq!(code[code.len() - 2..], [Instruction::mov_imm(0, 0), Instruction::exit()]);
    }

    /// On a hybrid machine the unified hierarchy is mounted aside; device programs work there just as well.
    #[test]
    fn the_kernel_takes_the_program_and_goes_by_it() {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(root) = root.into_iter().find(|r| r.join("cgroup.controllers").exists()) else {
            drop(writeln!(std::io::stderr(), "SKIPPED: no cgroup v2 hierarchy is mounted"));
            return;
        };
        let group = root.join(format!("rkdev{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&group) {
            drop(writeln!(std::io::stderr(), "SKIPPED: {}: {error}", group.display()));
            return;
        }
        let allowed = DeviceRule { kind: 'c', major: Some(1), minor: Some(5), access: "r".into() };
        let attached = attach(&group, &[allowed]);
        let script = "echo 0 > $0/cgroup.procs; for f in /dev/zero /dev/full; do head -c 1 $f >/dev/fd/1 && echo $f; done; \
                      echo x > /dev/zero || echo no write";
        let output = std::process::Command::new("sh").args(["-c", script]).arg(&group).output();
        std::fs::remove_dir(&group).unwrap();
        attached.unwrap();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).replace('\0', "");
        assert_eq!(text, "/dev/zero\nno write\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
