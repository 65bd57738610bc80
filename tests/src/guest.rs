//! A whole machine of its own in QEMU: Debian's cloud kernel, an initramfs of busybox and rk, no systemd.
//!
//! For what this machine's kernel cannot show, such as a cgroup v2 hierarchy and nothing else, modules that are loaded
//! on demand, and a machine that goes down. The kernel comes from `target/guest-kernel` (`.ci/run` unpacks Debian's
//! package there), from the folder that `RK_GUEST_KERNEL` names, or from this machine's own /boot and /lib/modules.

use crate::image;
use crate::kubectl::Kubectl;
use crate::process::{Background, check};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// An emulated machine is slow, and a busy one beneath it makes it slower.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What the guest loads by itself, as any Debian does: none of it is loaded for rk. Parts of paths in `modules.dep`.
const MODULES: &[&str] = &[
    "/virtio_pci.",
    "/virtio_net.",
    "/overlay.",
    "/bridge.",
    "/veth.",
    "/vxlan.",
    "/net/netfilter/nf",
    "/ipv4/netfilter/nf",
    "/ipv4/netfilter/nft",
    "crc32c",
];

/// Becomes the first process of the initramfs, which no container could leave: its files move into a root that is
/// mounted.
const UNPACK: &str = "#!/bin/sh
/bin/busybox --install -s /bin
mkdir /root
mount -t tmpfs -o size=90% root /root
cp -a bin etc lib sbin var /root
exec switch_root /root /sbin/init
";

/// The first process. Answers go to the second serial port: the kubeconfig, and how it went when the machine ended.
const INIT: &str = "#!/bin/sh
export PATH=/bin:/sbin HOME=/
mkdir -p proc sys dev tmp run etc/rk
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
modprobe virtio_pci
modprobe virtio_net
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
hostname guest
rk server &
until [ -s /etc/rk/rk.yaml ]; do sleep 1; done
cat /etc/rk/rk.yaml >/dev/ttyS1
until [ -e /down ]; do sleep 1; done
kill -TERM -1
seconds=0
while pgrep -f 'rk shim' >/dev/null; do sleep 1; seconds=$((seconds + 1)); done
echo \"all shims gone after $seconds s\" >/dev/ttyS1
poweroff -f
";

/// A running guest with `rk server` in it.
#[derive(Debug)]
pub struct Guest {
    machine: Background,
    folder: TempDir,
}

/// The kernel's image and its modules.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Guest {
    /// Starts the machine, or says what is missing for it.
    pub fn start() -> Result<Self, String> {
        let kernel = Kernel::find()?;
        let folder = tempfile::Builder::new().prefix("rkguest").tempdir_in("/tmp").expect("make a folder");
        let initramfs = folder.path().join("initramfs");
        fs::write(&initramfs, contents(&kernel, folder.path())).expect("write the initramfs");
        // Nothing holds the port until the machine listens; another test that takes it meanwhile fails this one.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("find a free port").port();
        fs::write(folder.path().join("port"), port.to_string()).expect("note the port");
        let mut command = Command::new("qemu-system-x86_64");
        let accelerator = std::env::var("RK_GUEST_ACCEL").unwrap_or_else(|_| "tcg,thread=multi".into());
        command.args(["-accel", &accelerator, "-cpu", "max", "-smp", "2", "-m", "1536"]);
        command.args(["-nodefaults", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        command.args(["-netdev", &format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:6443")]);
        command.args(["-device", "virtio-net-pci,netdev=net", "-serial", "stdio"]);
        command.arg("-serial").arg(format!("file:{}", folder.path().join("answers").display()));
        let machine = Background::start(command, &folder.path().join("console.log"));
        Ok(Self { machine, folder })
    }

    /// What the guest's first process has said.
    pub fn answers(&self) -> String {
        fs::read_to_string(self.folder.path().join("answers")).unwrap_or_default().replace('\r', "")
    }

    /// Waits for the API server's kubeconfig, for use on this side of the port.
    pub fn kubeconfig(&mut self) -> PathBuf {
        let text = crate::until("the guest's kubeconfig", PATIENCE, || {
            assert!(self.machine.ended().is_none(), "the guest has ended");
            let text = self.answers();
            // The last key of the file.
            if text.contains("client-key-data: ") && text.ends_with('\n') { Ok(text) } else { Err("not there yet") }
        });
        let port = fs::read_to_string(self.folder.path().join("port")).expect("read the port");
        let path = self.folder.path().join("kubeconfig");
        fs::write(&path, text.replace("127.0.0.1:6443", &format!("127.0.0.1:{port}"))).expect("write the kubeconfig");
        path
    }

    /// Waits for the machine's own end, and returns its first process' answers.
    pub fn ended(&mut self) -> String {
        crate::until("the guest switches itself off", PATIENCE, || self.machine.ended().ok_or("still running"));
        self.answers()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.machine.ended().is_none() {
            self.machine.end(Signal::SIGKILL);
        }
    }
}

impl<'a> Kubectl<'a> {
    /// On this machine itself.
    pub fn here(kubeconfig: &'a Path) -> Self {
        Self { host: None, kubeconfig }
    }
}

impl Kernel {
    fn find() -> Result<Self, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err("only the x86-64 machine is described".into());
        }
        let built = crate::rk();
        let target = built.ancestors().find(|path| path.ends_with("target")).map(|path| path.join("guest-kernel"));
        let named = std::env::var_os("RK_GUEST_KERNEL").map(PathBuf::from);
        let roots: Vec<PathBuf> = named.into_iter().chain(target).chain([PathBuf::from("/")]).collect();
        roots.iter().find_map(|root| Self::below(root)).ok_or_else(|| {
            format!("no Debian cloud kernel with modules.dep below {roots:?}: .ci/run says how to unpack one")
        })
    }

    fn below(root: &Path) -> Option<Self> {
        let modules = fs::read_dir(root.join("lib/modules")).ok()?;
        let mut found: Vec<Self> = modules
            .flatten()
            .filter_map(|entry| {
                let version = entry.file_name().into_string().ok().filter(|name| name.contains("-cloud-"))?;
                let image = root.join("boot").join(format!("vmlinuz-{version}"));
                let whole = image.exists() && entry.path().join("modules.dep").exists();
                whole.then(|| Self { image, modules: entry.path() })
            })
            .collect();
        found.sort_by(|a, b| a.image.cmp(&b.image));
        found.pop()
    }

    /// Paths, relative to the modules' folder, of [`MODULES`] and of what they need.
    fn needed(&self) -> BTreeSet<String> {
        let table = fs::read_to_string(self.modules.join("modules.dep")).expect("read modules.dep");
        // Each line names all that a module needs, directly or not.
        let lines = table.lines().filter(|line| {
            let module = line.split(':').next().unwrap_or_default();
            MODULES.iter().any(|part| module.contains(part))
        });
        lines.flat_map(|line| line.split([':', ' ']).filter(|path| !path.is_empty()).map(str::to_owned)).collect()
    }
}

fn contents(kernel: &Kernel, folder: &Path) -> Vec<u8> {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let mut archive = Archive::default();
    archive.file("init", 0o755, UNPACK.as_bytes());
    archive.file("sbin/init", 0o755, INIT.as_bytes());
    archive.file("bin/busybox", 0o755, &read(Path::new("/bin/busybox")));
    // The kernel asks for modules by way of /sbin/modprobe.
    archive.link("sbin/modprobe", "/bin/busybox");
    archive.link("bin/sh", "busybox");
    archive.link("bin/mkdir", "busybox");
    archive.file("bin/rk", 0o755, &read(&stripped(folder)));
    archive.file("etc/hostname", 0o644, b"guest\n");
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n");
    let images = image::Image::busybox().docker_archive(image::NAME);
    archive.file("var/lib/rk/agent/images/busybox.tar", 0o644, &images);
    let version = kernel.modules.file_name().and_then(|name| name.to_str()).expect("the folder's name is a version");
    let tables = ["modules.dep", "modules.alias", "modules.softdep"].map(str::to_owned);
    for file in kernel.needed().into_iter().chain(tables) {
        archive.file(&format!("lib/modules/{version}/{file}"), 0o644, &read(&kernel.modules.join(&file)));
    }
    archive.finish()
}

/// The executable without its debug information, which is most of it; as it is, where no `strip` is installed.
fn stripped(folder: &Path) -> PathBuf {
    let small = folder.join("rk");
    let mut command = Command::new("strip");
    command.arg("-o").arg(&small).arg(crate::rk());
    match check(&mut command, None) {
        Ok(_) => small,
        Err(error) => {
            eprintln!("the guest gets all debug information: {error:#}");
            crate::rk()
        }
    }
}

/// A cpio archive in the "new ASCII" format, which is what the kernel unpacks
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl Archive {
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.folders_of(path);
        self.entry(path, FILE | mode, content);
    }

    fn link(&mut self, path: &str, target: &str) {
        self.folders_of(path);
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    fn folders_of(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
        for folder in ends.collect::<Vec<_>>() {
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER | 0o755, &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(content.len()).expect("files are smaller than 4 GiB");
        let name_length = u32::try_from(name.len() + 1).expect("names are short");
        // inode, mode, uid, gid, links, mtime, size, device (4 numbers), length of the name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
