//! Who is this: SelfSubjectReview and TokenReview.

use objects::status::Status;
use serde_json::{Map, Value, json};

use crate::{authn::User, handler::Call};

fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    info.insert("groups".into(), json!(user.groups));
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

/// SelfSubjectReview.
pub(super) fn who_am_i(call: &Call, mut review: Value) -> Value {
    review["status"] = json!({ "userInfo": user_info(&call.user) });
    review
}

/// TokenReview.
pub(super) async fn token_review(call: &Call, mut review: Value) -> Result<Value, Status> {
    let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default().to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = review
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    review["status"] = match call.inner.authn.token(&token, &audiences).await {
        Some((user, audiences)) => {
            json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
        }
        None => json!({"user": {}, "error": "[invalid bearer token]"}),
    };
    Ok(review)
}
