//! Short names for templates: FNV-1a over their JSON, written in an alphabet without vowels and lookalikes, so that
//! no word can come of it. The same as upstream's in form, not in value.

use objects::names;
use serde::Serialize;

fn fnv32a(bytes: &[u8], start: u32) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

/// A name for `template`, another for each `collision` count.
pub(crate) fn template_hash<T: Serialize>(template: &T, collision: Option<i32>) -> Result<String, serde_json::Error> {
    let mut hash = fnv32a(&serde_json::to_vec(template)?, 2_166_136_261);
    if let Some(collision) = collision {
        hash = fnv32a(&collision.to_le_bytes(), hash);
    }
    Ok(names::spell(hash.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_templates_have_one_name_and_collisions_another() {
        let name = template_hash(&"template", None).unwrap();
        assert_eq!(name, template_hash(&"template", None).unwrap());
        assert_ne!(name, template_hash(&"other", None).unwrap());
        assert_ne!(name, template_hash(&"template", Some(1)).unwrap());
        assert_eq!(names::label_value(&name), names::Messages::new());
    }
}
