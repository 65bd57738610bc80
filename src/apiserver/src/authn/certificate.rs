//! Identity from a client certificate that the TLS handshake has verified: CN is the user, each O a group. A leaf's
//! fingerprint goes into `extra`, as upstream does. Called once per connection.

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;

/// The user a verified leaf certificate names; `None` when it has no common name.
pub(crate) fn user_of(leaf: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups: Vec<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let mut user = User::new(name, groups);
    let id: String = digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={id}")]);
    Some(user)
}
