//! Removing images with a look at who uses them.

use super::Runtime;
use crate::images::ImageError;

impl Runtime {
    /// Removes an image by name or id. One that containers use is refused unless `force`; then its layers stay until
    /// they are gone. Answers with those containers, as `namespace/pod (container)`.
    pub fn remove_image(&self, name_or_id: &str, force: bool) -> Result<Vec<String>, ImageError> {
        let doomed = self.images().doomed(name_or_id)?;
        let users = doomed.map_or_else(Vec::new, |image| self.users(&image.id));
        if !users.is_empty() && !force {
            return Err(ImageError::InUse { image: name_or_id.to_owned(), users });
        }
        self.images().remove(name_or_id)?;
        Ok(users)
    }

    /// The containers of an image, whatever state they are in.
    fn users(&self, image_id: &str) -> Vec<String> {
        let mut users = Vec::new();
        for pod in self.list_pods() {
            let of_image = pod.containers.iter().filter(|container| container.image_id == image_id);
            users.extend(of_image.map(|c| format!("{}/{} ({})", pod.spec.namespace, pod.spec.name, c.spec.name)));
        }
        users.sort();
        users.dedup();
        users
    }
}
