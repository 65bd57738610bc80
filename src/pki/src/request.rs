//! Certificate signing requests of API clients: what they ask for, and the certificate that grants it. Unlike a joining
//! node's request ([`Ca::sign_request`]), subject and names are the request's own; the caller has judged them.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SerialNumber};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::authority::{Ca, CaError, set_validity};

/// A certificate is valid from a little before it was made: clocks differ.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// The subject and names of a signing request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requested {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// E-mail addresses, URIs and whatever else names can be.
    pub other_names: usize,
}

impl Requested {
    /// `None` when it is no signing request.
    pub fn parse(pem: &str) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let texts = |names: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
            names.filter_map(|name| name.as_str().ok().map(str::to_owned)).collect()
        };
        let mut found = Self {
            common_name: texts(&mut subject.iter_common_name()).pop().unwrap_or_default(),
            organizations: texts(&mut subject.iter_organization()),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| found.add(name));
            }
        }
        Some(found)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(v4), _) => self.addresses.push(v4.into()),
                (_, Ok(v6)) => self.addresses.push(v6.into()),
                _ => self.other_names += 1,
            },
            _ => self.other_names += 1,
        }
    }
}

impl Ca {
    /// Certifies a request with the subject and names it has, for `usages` as `spec.usages` of a
    /// CertificateSigningRequest spells them.
    pub fn grant(
        &self,
        request_pem: &str,
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, CaError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let params = &mut request.params;
        if let Some(asked) = Requested::parse(request_pem).filter(|asked| asked.organizations.len() > 1) {
            return Err(CaError::Groups(asked.common_name));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        (params.key_usages, params.extended_key_usages) = purposes(usages)?;
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<u128>().to_be_bytes()));
        set_validity(params, now, BACKDATE, lifetime)?;
        Ok(request.signed_by(self.issuer())?.pem())
    }
}

type Purposes = (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>);

fn purposes(usages: &[String]) -> Result<Purposes, CaError> {
    let (mut plain, mut extended) = (Vec::new(), Vec::new());
    for usage in usages {
        match usage.as_str() {
            "signing" | "digital signature" => plain.push(KeyUsagePurpose::DigitalSignature),
            "content commitment" => plain.push(KeyUsagePurpose::ContentCommitment),
            "key encipherment" => plain.push(KeyUsagePurpose::KeyEncipherment),
            "data encipherment" => plain.push(KeyUsagePurpose::DataEncipherment),
            "key agreement" => plain.push(KeyUsagePurpose::KeyAgreement),
            "cert sign" => plain.push(KeyUsagePurpose::KeyCertSign),
            "crl sign" => plain.push(KeyUsagePurpose::CrlSign),
            "encipher only" => plain.push(KeyUsagePurpose::EncipherOnly),
            "decipher only" => plain.push(KeyUsagePurpose::DecipherOnly),
            "any" => extended.push(ExtendedKeyUsagePurpose::Any),
            "server auth" => extended.push(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => extended.push(ExtendedKeyUsagePurpose::ClientAuth),
            "code signing" => extended.push(ExtendedKeyUsagePurpose::CodeSigning),
            "email protection" | "s/mime" => extended.push(ExtendedKeyUsagePurpose::EmailProtection),
            "timestamping" => extended.push(ExtendedKeyUsagePurpose::TimeStamping),
            "ocsp signing" => extended.push(ExtendedKeyUsagePurpose::OcspSigning),
            other => return Err(CaError::Usage(other.to_owned())),
        }
    }
    Ok((plain, extended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::Identity;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::X509Certificate;

    fn request(organizations: usize) -> String {
        let mut params = CertificateParams::new(vec!["n.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "jane");
        if organizations > 0 {
            params.distinguished_name.push(DnType::OrganizationName, "devs");
        }
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_is_read_and_granted_as_it_is() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let ca = Ca::from_pem(&Ca::generate("rk", now).unwrap()).unwrap();
        let pem = request(1);
        let asked = Requested::parse(&pem).unwrap();
        assert_eq!((asked.common_name.as_str(), asked.organizations.as_slice()), ("jane", &["devs".to_owned()][..]));
        assert_eq!(asked.dns_names, ["n.example"]);
        assert_eq!(asked.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        let usages = ["client auth".to_owned(), "digital signature".to_owned()];
        let certificate = ca.grant(&pem, &usages, SignedDuration::from_hours(1), now).unwrap();
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        assert_eq!(Identity::of_certificate(&der), Some(Identity::new("jane", &["devs"])));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let (_, authority) = X509Certificate::from_der(ca.cert_der()).unwrap();
        certificate.verify_signature(Some(authority.public_key())).unwrap();
        assert_eq!(certificate.validity().not_after.timestamp(), now.as_second() + 3600);
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Requested::parse("nonsense"), None);
        assert!(matches!(purposes(&["netscape sgc".to_owned()]), Err(CaError::Usage(_))));
    }
}
