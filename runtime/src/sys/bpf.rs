//! Loading a device program into the kernel and attaching it to a cgroup.

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// One eBPF instruction, in the kernel's layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination register in the low half, source in the high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: destination | source << 4, offset, immediate }
    }

    /// `dst = *(u32 *)(src + offset)`
    pub(crate) const fn load_word(destination: u8, source: u8, offset: i16) -> Self {
        Self::new(0x61, destination, source, offset, 0)
    }

    pub(crate) const fn mov_reg(destination: u8, source: u8) -> Self {
        Self::new(0xbf, destination, source, 0, 0)
    }

    pub(crate) const fn mov_imm(destination: u8, value: i32) -> Self {
        Self::new(0xb7, destination, 0, 0, value)
    }

    /// On the low 32 bits.
    pub(crate) const fn and_imm(destination: u8, value: i32) -> Self {
        Self::new(0x54, destination, 0, 0, value)
    }

    /// On the low 32 bits.
    pub(crate) const fn shift_right(destination: u8, bits: i32) -> Self {
        Self::new(0x74, destination, 0, 0, bits)
    }

    pub(crate) const fn jump_not_equal(register: u8, value: i32, distance: i16) -> Self {
        Self::new(0x55, register, 0, distance, value)
    }

    pub(crate) const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// The leading part of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    program_flags: u32,
}

/// The leading part of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes live through the call and the size given is the structure's.
    let result =
        check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) })?;
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))
}

/// Makes `code` decide on device access in `cgroup`. The kernel keeps the program for as long as the cgroup lives.
pub(crate) fn attach_device_program(cgroup: impl AsFd, code: &[Instruction]) -> io::Result<()> {
    let load = LoadAttributes {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(code.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: code.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        program_flags: 0,
    };
    let program = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel has just handed us this descriptor.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let attach = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: 0,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}
