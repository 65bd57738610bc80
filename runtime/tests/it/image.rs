//! Images: archives, layers, names.

use crate::support::{Host, able};

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_is_found_by_name_and_id() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let images = host.runtime.images();
    let image = images.get(crate::support::IMAGE).unwrap();
    assert_eq!(images.get(&image.id).unwrap().id, image.id);
    assert_eq!(image.config.working_dir, "/tmp");
    host.close().await;
}
