//! Images for tests, made of Debian's static busybox: docker-archive tars, as `docker save` writes them, OCI-archive
//! tars, and the pages of a registry.

use crate::site::Pages;
use sha2::{Digest, Sha256};
use std::path::Path;

fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    builder.append_data(&mut header, path, content).expect("append to a tar in memory");
}

/// The SHA-256 of `bytes`, in hex.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the suite calls its busybox image.
pub const NAME: &str = "rk.local/busybox:test";

/// Writes an archive of an image called `name`: busybox with its applets as links in /bin, a /tmp and a passwd file.
pub fn busybox(archive: &Path, name: &str) {
    std::fs::write(archive, Image::busybox().docker_archive(name)).expect("write the archive");
}

/// An image of one layer.
#[derive(Debug, Clone)]
pub struct Image {
    layer: Vec<u8>,
    config: String,
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Image {
    pub fn busybox() -> Self {
        let layer = busybox_layer();
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
        });
        Self { layer, config: config.to_string() }
    }

    /// As `docker save` writes it.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let config_name = format!("{}.json", digest(self.config.as_bytes()));
        let manifest = serde_json::json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]);
        let mut image = tar::Builder::new(Vec::new());
        file(&mut image, &config_name, 0o644, self.config.as_bytes());
        file(&mut image, "layer.tar", 0o644, &self.layer);
        file(&mut image, "manifest.json", 0o644, manifest.to_string().as_bytes());
        image.into_inner().expect("finish a tar in memory")
    }

    /// An OCI image layout in a tar.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let manifest = self.manifest();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": OCI_MANIFEST,
                "digest": format!("sha256:{}", digest(manifest.as_bytes())),
                "size": manifest.len(),
                "annotations": {"io.containerd.image.name": name},
            }],
        });
        let mut image = tar::Builder::new(Vec::new());
        file(&mut image, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        file(&mut image, "index.json", 0o644, index.to_string().as_bytes());
        for blob in [manifest.as_bytes(), self.config.as_bytes(), &self.layer] {
            file(&mut image, &format!("blobs/sha256/{}", digest(blob)), 0o644, blob);
        }
        image.into_inner().expect("finish a tar in memory")
    }

    /// What a registry serves for `repository:tag`.
    pub fn pages(&self, repository: &str, tag: &str) -> Pages {
        let mut pages = Pages::default();
        let manifest = self.manifest();
        pages.add("/v2/", "application/json", "{}");
        pages.add(format!("/v2/{repository}/manifests/{tag}"), OCI_MANIFEST, manifest.clone());
        let by_digest = format!("/v2/{repository}/manifests/sha256:{}", digest(manifest.as_bytes()));
        pages.add(by_digest, OCI_MANIFEST, manifest);
        for blob in [self.config.as_bytes(), &self.layer] {
            pages.add(format!("/v2/{repository}/blobs/sha256:{}", digest(blob)), "application/octet-stream", blob);
        }
        pages
    }

    fn manifest(&self) -> String {
        let (config, layer) = (self.config.as_bytes(), &self.layer);
        serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{}", digest(config)),
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": format!("sha256:{}", digest(layer)),
                "size": layer.len(),
            }],
        })
        .to_string()
    }
}

fn busybox_layer() -> Vec<u8> {
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
    layer.into_inner().expect("finish a tar in memory")
}

/// A shell command for busybox that prints a page's body: its wget crashes in a static build, its nc does not.
pub fn fetch(address: &str, port: &str) -> String {
    fetch_path(address, port, "")
}

/// The same for a path without its first slash.
pub fn fetch_path(address: &str, port: &str, path: &str) -> String {
    // Only the head is read line by line: a body may be any bytes.
    let body = "(while read -r line && [ \"$line\" != \"$(printf '\\r')\" ]; do :; done; busybox cat)";
    format!("printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {address} {port} | {body}")
}

const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "sleep", "env", "id", "hostname", "nslookup", "wget", "nc", "httpd", "true", "false",
    "ps", "kill", "mount", "stat", "touch", "mkdir", "rm", "grep", "head", "tail", "seq", "date", "tar", "ip", "wc",
    "tee", "test", "printf", "awk", "sed", "dd", "df", "trap", "mv", "cp", "ln", "chmod", "sync", "stty", "ping",
];
