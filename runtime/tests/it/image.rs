//! Images: archives, layers, names, collection; and what broken or hostile ones come to.

use crate::support::{
    Host, IMAGE, able, busybox_archive, busybox_layer, config_json, docker_archive, gzip, sha256, shell, tar_entry,
    tar_link,
};
use runtime::images::{FileSource, ImageFile};
use runtime::{ContainerSpec, ImageConfig, ImageError, ImageRecord, Images};
use std::collections::HashSet;

async fn import(images: &Images, archive: Vec<u8>) -> Result<Vec<ImageRecord>, ImageError> {
    let images = images.clone();
    tokio::task::spawn_blocking(move || images.import(&archive[..])).await.unwrap()
}

fn special(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, set: impl FnOnce(&mut tar::Header)) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    set(&mut header);
    tar.append_data(&mut header, path, std::io::empty()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_found_by_name_id_and_prefix() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let images = host.runtime.images();
    let image = images.get(IMAGE).unwrap();
    assert_eq!(image.names, [IMAGE]);
    assert_eq!(images.get(&image.id).unwrap().id, image.id);
    assert_eq!(images.get(&image.id[7..27]).unwrap().id, image.id);
    assert!(images.get("rk.test/other").is_none());
    let pod = host.pod("img").await;
    let spec = ContainerSpec { args: vec![], ..shell("default", "") };
    assert_eq!(host.run(&pod, spec).await.1, "stdout F default\n");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_and_oci_archives_make_the_same_image() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let images = host.runtime.images();
    let id = images.get(IMAGE).unwrap().id;
    for archive in [gzip(&busybox_archive()), zstd::encode_all(&busybox_archive()[..], 1).unwrap()] {
        assert_eq!(import(images, archive).await.unwrap()[0].id, id);
    }
    let layer = gzip(&busybox_layer());
    let config = config_json(&[sha256(&busybox_layer())]);
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": config.len()},
        "layers": [{"digest": sha256(&layer), "size": layer.len()}],
    }))
    .unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "digest": sha256(&manifest), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "rk.test/oci:2"}}]});
    let mut tar = tar::Builder::new(Vec::new());
    for blob in [&layer, &config, &manifest] {
        tar_entry(&mut tar, &format!("blobs/sha256/{}", &sha256(blob)[7..]), 0o644, blob);
    }
    tar_entry(&mut tar, "index.json", 0o644, &serde_json::to_vec(&index).unwrap());
    let imported = import(images, tar.into_inner().unwrap()).await.unwrap();
    assert_eq!(
        (imported[0].id.as_str(), imported[0].names.as_slice()),
        (id.as_str(), ["rk.test/oci:2".to_owned()].as_slice())
    );
    assert_eq!(images.get("rk.test/oci:2").unwrap().id, id);
    assert_eq!(images.get(&id).unwrap().names.len(), 2, "the image has its former name, too");
    assert_eq!(images.get(&format!("rk.test/oci@{}", sha256(&manifest))).unwrap().id, id);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upper_layers_hide_and_replace() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let mut lower = tar::Builder::new(Vec::new());
    for path in ["d/gone", "d/kept", "o/old", "swap"] {
        tar_entry(&mut lower, path, 0o644, b"lower\n");
    }
    let mut upper = tar::Builder::new(Vec::new());
    tar_entry(&mut upper, "d/.wh.gone", 0o644, b"");
    tar_entry(&mut upper, "o/.wh..wh..opq", 0o644, b"");
    tar_entry(&mut upper, "o/new", 0o644, b"upper\n");
    tar_entry(&mut upper, "swap/inner", 0o644, b"inner\n");
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    upper.append_link(&mut link, "hard", "o/new").unwrap();
    special(&mut upper, "null", tar::EntryType::Char, |h| {
        h.set_device_major(1).unwrap();
        h.set_device_minor(3).unwrap();
    });
    special(&mut upper, "fifo", tar::EntryType::Fifo, |_| {});
    upper.append_pax_extensions([("SCHILY.xattr.user.mark", &b"yes"[..])]).unwrap();
    tar_entry(&mut upper, "marked", 0o4711, b"m");
    let layers = [busybox_layer(), lower.into_inner().unwrap(), upper.into_inner().unwrap()];
    import(host.runtime.images(), docker_archive("rk.test/layers:1", &layers)).await.unwrap();
    let pod = host.pod("layers").await;
    let script = "ls d; ls o; cat swap/inner hard; stat -c %h hard; test -c null && test -p fifo && stat -c %a marked";
    let spec = ContainerSpec { image: "rk.test/layers:1".into(), cwd: "/".into(), ..shell("c", script) };
    let (_, log) = host.run(&pod, spec).await;
    let words: Vec<&str> = log.lines().map(|l| l.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["kept", "new", "inner", "upper", "2", "4711"], "{log}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_layer_stays_in_its_folder() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let outside = host.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let images = host.runtime.images();
    let mut tar = tar::Builder::new(Vec::new());
    tar_link(&mut tar, "escape", outside.to_str().unwrap());
    tar_link(&mut tar, "up", "../../../../../../../../tmp");
    tar_entry(&mut tar, "file", 0o644, b"first");
    tar_link(&mut tar, "link", "/etc/passwd");
    tar_entry(&mut tar, "link", 0o644, b"replaced, not followed");
    import(images, docker_archive("rk.test/tame:1", &[tar.into_inner().unwrap()])).await.unwrap();
    for (case, name) in ["escape/planted", "up/planted"].into_iter().enumerate() {
        let mut tar = tar::Builder::new(Vec::new());
        tar_link(&mut tar, "escape", outside.to_str().unwrap());
        tar_link(&mut tar, "up", "../../../../../../../../tmp");
        tar_entry(&mut tar, name, 0o644, b"evil");
        // Inside the layer the link leads nowhere; that is an error of the archive, or a folder of the layer.
        drop(import(images, docker_archive(&format!("rk.test/evil:{case}"), &[tar.into_inner().unwrap()])).await);
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/tmp/planted").exists());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..9].copy_from_slice(b"../planted"[..9].try_into().unwrap());
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, std::io::empty()).unwrap();
    let error = import(images, docker_archive("rk.test/dots:1", &[tar.into_inner().unwrap()])).await.unwrap_err();
    assert!(error.to_string().contains("leads out of the layer"), "{error}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_archives_are_named_by_entry_and_offset() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let images = host.runtime.images();
    let mut cut = busybox_archive();
    cut.truncate(300_000);
    let error = import(images, cut).await.unwrap_err();
    assert!(matches!(&error, ImageError::BrokenArchive { entry, .. } if entry == "0/layer.tar"), "{error}");
    let error = import(images, b"not a tar at all, but long enough to be one".repeat(40)).await.unwrap_err();
    assert!(matches!(error, ImageError::NotAnArchive { .. }), "{error}");
    assert!(error.to_string().contains("text beginning \"not a tar at all"), "{error}");
    let mut cut = gzip(&busybox_archive());
    cut.truncate(cut.len() / 2);
    let error = import(images, cut).await.unwrap_err();
    assert!(matches!(error, ImageError::BrokenArchive { .. }), "{error}");
    let mut other = tar::Builder::new(Vec::new());
    tar_entry(&mut other, "readme", 0o644, b"hello");
    let error = import(images, other.into_inner().unwrap()).await.unwrap_err();
    assert!(matches!(error, ImageError::UnknownArchive(_)), "{error}");
    // A layer that is not the one its config promises.
    let mut tar = tar::Builder::new(Vec::new());
    tar_entry(&mut tar, "l", 0o644, &busybox_layer());
    tar_entry(&mut tar, "c", 0o644, &config_json(&[sha256(b"another layer")]));
    tar_entry(&mut tar, "manifest.json", 0o644, br#"[{"Config":"c","RepoTags":null,"Layers":["l"]}]"#);
    let error = import(images, tar.into_inner().unwrap()).await.unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    // A layer that is named but not there, one that is a link out of the archive, a blob that is not what its name says.
    for (layer, words) in [("absent", "absent is named in its manifest but missing"), ("link", "named in its manifest")]
    {
        let mut tar = tar::Builder::new(Vec::new());
        tar_link(&mut tar, "link", "/etc/passwd");
        tar_entry(&mut tar, "c", 0o644, &config_json(&[sha256(b"another layer")]));
        let manifest = format!(r#"[{{"Config":"c","RepoTags":null,"Layers":["{layer}"]}}]"#);
        tar_entry(&mut tar, "manifest.json", 0o644, manifest.as_bytes());
        let error = import(images, tar.into_inner().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let mut tar = tar::Builder::new(Vec::new());
    tar_entry(&mut tar, &format!("blobs/sha256/{}", &sha256(b"right")[7..]), 0o644, b"wrong");
    let error = import(images, tar.into_inner().unwrap()).await.unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    let left = std::fs::read_dir(host.dir.path().join("root/ingest")).unwrap().count();
    assert_eq!(left, 0);
    assert_eq!(images.list().len(), 1);
    host.close().await;
}

/// A hard link; unlike the builder's own, to a path that may not exist.
fn hard_link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    tar.append_link(&mut header, path, target).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_folders_respect_what_the_layers_below_have() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let mut lower = tar::Builder::new(Vec::new());
    tar_entry(&mut lower, "d/file", 0o4755, b"lower\n");
    tar_entry(&mut lower, "was/old", 0o644, b"old\n");
    tar_entry(&mut lower, "were/old", 0o644, b"old\n");
    tar_entry(&mut lower, "removed", 0o644, b"old\n");
    let mut middle = tar::Builder::new(Vec::new());
    tar_entry(&mut middle, ".wh.removed", 0o644, b"");
    let mut upper = tar::Builder::new(Vec::new());
    hard_link(&mut upper, "e/hard", "d/file");
    // A folder that takes the place of a removed one shows nothing of it, whether it has an entry of its own or not.
    tar_entry(&mut upper, ".wh.was", 0o644, b"");
    special(&mut upper, "was", tar::EntryType::Directory, |_| {});
    tar_entry(&mut upper, "was/new", 0o644, b"new\n");
    tar_entry(&mut upper, ".wh.were", 0o644, b"");
    tar_entry(&mut upper, "were/new", 0o644, b"new\n");
    let layers = [busybox_layer(), lower.into_inner().unwrap(), middle.into_inner().unwrap()];
    let with = |upper: Vec<u8>| docker_archive("rk.test/below:1", &[&layers[..], &[upper]].concat());
    import(host.runtime.images(), with(upper.into_inner().unwrap())).await.unwrap();
    let pod = host.pod("below").await;
    let script = "cat e/hard; stat -c %a e/hard; stat -c %h d/file; ls was were";
    let spec = ContainerSpec { image: "rk.test/below:1".into(), cwd: "/".into(), ..shell("c", script) };
    let (_, log) = host.run(&pod, spec).await;
    let words: Vec<&str> = log.lines().map(|l| l.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["lower", "4755", "2", "was:", "new", "", "were:", "new"], "{log}");
    for target in ["removed", "nowhere", "/etc/shadow"] {
        let mut upper = tar::Builder::new(Vec::new());
        hard_link(&mut upper, "hard", target);
        let error = import(host.runtime.images(), with(upper.into_inner().unwrap())).await.unwrap_err();
        assert!(error.to_string().contains("is in no layer"), "{error}");
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_called_so() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let small = host.dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let tmpfs = Some("tmpfs");
    nix::mount::mount(Some("none"), &small, tmpfs, nix::mount::MsFlags::empty(), Some("size=1m")).unwrap();
    let runtime = Host::open(&small, &format!("{}/small", host.cgroup)).await;
    let error = import(runtime.images(), busybox_archive()).await.unwrap_err();
    assert!(matches!(error, ImageError::NoSpace(_)), "{error}");
    drop(runtime);
    nix::mount::umount2(&small, nix::mount::MntFlags::MNT_DETACH).unwrap();
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_built_from_files_are_reproducible_and_run() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let files = [
        ImageFile { path: "/bin".into(), mode: 0o755, source: FileSource::Directory },
        ImageFile { path: "/bin/busybox".into(), mode: 0o755, source: FileSource::Host("/bin/busybox".into()) },
        ImageFile { path: "/bin/sh".into(), mode: 0o777, source: FileSource::Symlink("busybox".into()) },
        ImageFile { path: "/page".into(), mode: 0o644, source: FileSource::Bytes("hello\n".into()) },
    ];
    let config = ImageConfig {
        entrypoint: vec!["/bin/sh".into()],
        cmd: vec!["-c".into(), "busybox cat /page".into()],
        ..ImageConfig::default()
    };
    let name = "rk.local/hello".parse().unwrap();
    let images = host.runtime.images().clone();
    let [first, second] =
        tokio::task::spawn_blocking(move || [0, 1].map(|_| images.add_layer_image(&name, &files, &config).unwrap()))
            .await
            .unwrap();
    assert_eq!(first.id, second.id);
    assert!(first.pinned);
    let pod = host.pod("hello").await;
    let spec = ContainerSpec { image: "rk.local/hello:latest".into(), args: vec![], ..shell("c", "") };
    assert_eq!(host.run(&pod, spec).await.1, "stdout F hello\n");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_names_itself_is_refused() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let digest = format!("sha256:{}", "a".repeat(64));
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"digest": digest, "size": 1}]}).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    tar_entry(&mut tar, "index.json", 0o644, index.as_bytes());
    tar_link(&mut tar, &format!("blobs/sha256/{}", &digest[7..]), "../../index.json");
    let refused = import(host.runtime.images(), tar.into_inner().unwrap()).await;
    assert!(matches!(refused, Err(ImageError::Malformed { .. })), "{refused:?}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_in_use_outlive_their_image() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let images = host.runtime.images().clone();
    let pod = host.pod("gc").await;
    let id = host.start(&pod, crate::support::sleeper("c")).await;
    let in_use: HashSet<String> = [host.runtime.container_status(&id).unwrap().image_id].into();
    assert_eq!(images.gc(&in_use).unwrap(), 0);
    assert_eq!(images.gc(&HashSet::new()).unwrap(), 0, "what was imported stays");
    assert!(images.get(IMAGE).is_some());
    images.tag(IMAGE, &"rk.test/second:1".parse().unwrap()).unwrap();
    host.runtime.remove_image("rk.test/second:1", false).unwrap();
    let refusal = host.runtime.remove_image(IMAGE, false).unwrap_err().to_string();
    assert!(refusal.contains("is used by") && refusal.contains("(c)"), "{refusal}");
    assert!(images.get(IMAGE).is_some());
    assert_eq!(host.runtime.remove_image(IMAGE, true).unwrap().len(), 1);
    assert!(images.get(IMAGE).is_none());
    assert!(matches!(images.remove(IMAGE), Err(ImageError::NotPresent(_))));
    let session = host.runtime.exec(&id, crate::sessions::command(&["true"])).await.unwrap();
    assert_eq!(crate::sessions::outcome(session).await.0, 0);
    host.runtime.remove_container(&id).await.unwrap();
    assert!(images.gc(&HashSet::new()).unwrap() > 0);
    let layers = std::fs::read_dir(host.dir.path().join("root/snapshots")).unwrap().count();
    assert_eq!(layers, 1, "only the empty layer stays");
    host.close().await;
}
