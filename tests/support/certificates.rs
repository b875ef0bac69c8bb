//! Certificates for the servers and the clients of a test, by an authority of its own.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// Who signs certificates.
pub(crate) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate and its key.
pub(crate) struct Signed {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let key = new_key();
        let mut builder = builder(name, &key, 30);
        builder.set_issuer_name(&distinguished(name)).expect("a valid name");
        builder.append_extension(BasicConstraints::new().critical().ca().build().expect("valid")).expect("valid");
        let usage = KeyUsage::new().critical().key_cert_sign().build().expect("valid");
        builder.append_extension(usage).expect("valid");
        builder.sign(&key, MessageDigest::sha256()).expect("can be signed");
        Authority { certificate: builder.build(), key }
    }

    /// PEM of the authority.
    pub(crate) fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("can be written")
    }

    /// A certificate for this address, or for a client that has none, which ends in so many days.
    pub(crate) fn sign(&self, name: &str, address: Option<&str>, days: i32) -> Signed {
        let key = new_key();
        let mut builder = builder(name, &key, days);
        builder.set_issuer_name(self.certificate.subject_name()).expect("a valid name");
        if let Some(address) = address {
            let mut names = SubjectAlternativeName::new();
            if address.parse::<std::net::IpAddr>().is_ok() {
                names.ip(address)
            } else {
                names.dns(address)
            };
            let names = names.build(&builder.x509v3_context(Some(&self.certificate), None)).expect("valid");
            builder.append_extension(names).expect("valid");
        }
        builder.sign(&self.key, MessageDigest::sha256()).expect("can be signed");
        Signed { certificate: builder.build(), key }
    }
}

impl Signed {
    /// PEM of the certificate.
    pub(crate) fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("can be written")
    }

    /// PEM of the key; encrypted, if there is a password.
    pub(crate) fn key(&self, password: Option<&str>) -> Vec<u8> {
        match password {
            None => self.key.private_key_to_pem_pkcs8(),
            Some(password) => {
                self.key.private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_256_cbc(), password.as_bytes())
            }
        }
        .expect("can be written")
    }

    /// Key and certificate in one file, as servers in Java read them.
    pub(crate) fn both(&self) -> Vec<u8> {
        [self.key(None), self.pem()].concat()
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve that there is");
    PKey::from_ec_key(EcKey::generate(&group).expect("there is randomness")).expect("a valid key")
}

fn distinguished(name: &str) -> X509Name {
    let mut names = X509NameBuilder::new().expect("there is memory");
    names.append_entry_by_text("CN", name).expect("a valid name");
    names.build()
}

fn builder(name: &str, key: &PKey<Private>, days: i32) -> X509Builder {
    let mut builder = X509::builder().expect("there is memory");
    builder.set_version(2).expect("valid");
    let mut serial = BigNum::new().expect("there is memory");
    serial.rand(64, MsbOption::MAYBE_ZERO, false).expect("there is randomness");
    builder.set_serial_number(&serial.to_asn1_integer().expect("valid")).expect("valid");
    builder.set_subject_name(&distinguished(name)).expect("valid");
    builder.set_pubkey(key).expect("valid");
    let day = 24 * 3600;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let at = |days: i64| Asn1Time::from_unix(now.cast_signed() + days * day).expect("a valid time");
    builder.set_not_before(&at(-60)).expect("valid");
    builder.set_not_after(&at(days.into())).expect("valid");
    builder
}
