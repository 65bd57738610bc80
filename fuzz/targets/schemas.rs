//! Schemas of CustomResourceDefinitions and the objects they are for: pruning and defaulting are idempotent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use objects::schema::{Schema, default, duplicate_fields, prune, unknown_fields, validate};
use serde_json::Value;

fuzz_target!(|input: (&str, &str)| {
    let (schema, object) = input;
    duplicate_fields(object.as_bytes());
    let (Ok(schema), Ok(mut object)) = (serde_json::from_str::<Value>(schema), serde_json::from_str::<Value>(object))
    else {
        return;
    };
    let Ok(schema) = Schema::from_crd(&schema) else { return };
    unknown_fields(&object, &schema);
    validate(&object, &schema);
    prune(&mut object, &schema);
    let mut again = object.clone();
    prune(&mut again, &schema);
    assert_eq!(again, object);
    default(&mut object, &schema);
    let mut again = object.clone();
    default(&mut again, &schema);
    assert_eq!(again, object);
});
