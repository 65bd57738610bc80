//! Images for tests, made of Debian's static busybox: docker-archive tars, as `docker save` writes them.

use sha2::{Digest, Sha256};
use std::path::Path;

fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    builder.append_data(&mut header, path, content).expect("append to a tar in memory");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an archive of an image called `name`: busybox with its applets as links in /bin, a /tmp and a passwd file.
pub fn busybox(archive: &Path, name: &str) {
    let mut layer = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").expect("read /bin/busybox");
    file(&mut layer, "bin/busybox", 0o755, &busybox);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "/bin/busybox").expect("append to a tar in memory");
    }
    file(&mut layer, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n");
    file(&mut layer, "etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n");
    for (folder, mode) in [("tmp", 0o1777), ("root", 0o700), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(mode);
        layer.append_data(&mut header, folder, std::io::empty()).expect("append to a tar in memory");
    }
    let layer = layer.into_inner().expect("finish a tar in memory");
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(&layer)))]},
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
    let manifest = serde_json::json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut image = tar::Builder::new(Vec::new());
    file(&mut image, &config_name, 0o644, config.as_bytes());
    file(&mut image, "layer.tar", 0o644, &layer);
    file(&mut image, "manifest.json", 0o644, manifest.to_string().as_bytes());
    std::fs::write(archive, image.into_inner().expect("finish a tar in memory")).expect("write the archive");
}

/// A shell command for busybox that prints a page's body: its wget crashes in a static build, its nc does not.
pub fn fetch(address: &str, port: &str) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {address} {port} | busybox sed '1,/^\\r*$/d'")
}

const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "sleep", "env", "id", "hostname", "nslookup", "wget", "nc", "httpd", "true", "false",
    "ps", "kill", "mount", "stat", "touch", "mkdir", "rm", "grep", "head", "tail", "seq", "date", "tar", "ip", "wc",
    "tee", "test", "printf", "awk", "sed", "dd", "df", "trap", "mv", "cp", "ln", "chmod", "sync", "stty", "ping",
];
