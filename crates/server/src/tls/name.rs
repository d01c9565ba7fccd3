//! The name that a certificate gives its owner, as RabbitMQ reads it.

use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate};

use crate::config::LoginFrom;

/// Attributes of a distinguished name with a short name, after RFC 4514 and what RabbitMQ adds.
const SHORT_NAMES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAILADDRESS"),
];

const COMMON_NAME: &str = "2.5.4.3";

/// The name in a certificate. `None` if it has none, more than one where one is asked for, or one that is no text.
pub(super) fn of(certificate: &[u8], from: LoginFrom) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    match from {
        LoginFrom::CommonName => {
            let mut names =
                subject.iter_attributes().filter(|it| it.attr_type().to_id_string() == COMMON_NAME);
            let name = names.next()?.as_str().ok()?;
            names.next().is_none().then(|| name.to_owned())
        }
        LoginFrom::DistinguishedName => {
            // The last comes first, as in RFC 4514.
            let mut parts = Vec::new();
            for set in subject.iter_rdn().collect::<Vec<_>>().into_iter().rev() {
                let attributes: Option<Vec<_>> = set.iter().map(attribute).collect();
                parts.push(attributes?.join("+"));
            }
            (!parts.is_empty()).then(|| parts.join(","))
        }
    }
    .filter(|name| !name.is_empty())
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let id = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == id).map_or(&*id, |(_, short)| short);
    Some(format!("{short}={}", escaped(attribute.as_str().ok()?)))
}

/// RFC 4514: what has a meaning in a distinguished name follows a backslash.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut escaped = String::with_capacity(value.len());
    for (index, letter) in value.chars().enumerate() {
        let at_an_end = (letter == ' ' && (index == 0 || index == last)) || (letter == '#' && index == 0);
        if at_an_end || matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_as_rabbitmq_reads_them() {
        let der = certificate(&[
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Hare, Inc. "),
            (DnType::CommonName, "shop"),
        ]);
        assert_eq!(of(&der, LoginFrom::CommonName).unwrap(), "shop");
        assert_eq!(of(&der, LoginFrom::DistinguishedName).unwrap(), "CN=shop,O=Hare\\, Inc.\\ ,C=DE");
    }

    #[test]
    fn who_has_no_name_is_nobody() {
        let der = certificate(&[(DnType::CountryName, "DE")]);
        assert_eq!(of(&der, LoginFrom::CommonName), None);
        let der = certificate(&[]);
        assert_eq!(of(&der, LoginFrom::DistinguishedName), None);
        assert_eq!(of(b"nonsense", LoginFrom::CommonName), None);
    }
}
