//! TLS by OpenSSL: authorities, certificates and keys from PEM files. An error names the key of the configuration, or the option, and the file.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslContextBuilder, SslMethod, SslVerifyMode};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::{X509, X509Ref, X509StoreContextRef, X509VerifyResult};

use crate::failure::Failure;
use crate::paths::read;

/// A file, and what names it: a key of the configuration, or an option of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub(crate) key: &'a str,
    pub(crate) path: &'a Path,
}

impl Named<'_> {
    fn wrong(&self, why: &dyn Display) -> Failure {
        Failure::config(format!("{}: {}: {why}", self.key, self.path.display()))
    }

    fn read(&self) -> Result<Vec<u8>, Failure> {
        read(self.path).map_err(|e| self.wrong(&e))
    }

    /// Reads certificates, at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<X509>, Failure> {
        let certificates = X509::stack_from_pem(&self.read()?).map_err(|e| self.wrong(&e))?;
        if certificates.is_empty() {
            return Err(self.wrong(&"the file has no certificate in PEM form"));
        }
        Ok(certificates)
    }

    /// Reads authorities, to trust them and no others.
    pub(crate) fn authorities(&self) -> Result<X509Store, Failure> {
        let mut store = X509StoreBuilder::new().map_err(|e| self.wrong(&e))?;
        for authority in self.certificates()? {
            store.add_cert(authority).map_err(|e| self.wrong(&e))?;
        }
        Ok(store.build())
    }

    /// Reads a private key. One that is encrypted is refused: OpenSSL would ask for its passphrase on the terminal.
    pub(crate) fn private_key(&self) -> Result<PKey<Private>, Failure> {
        let pem = self.read()?;
        if memchr::memmem::find(&pem, b"ENCRYPTED").is_some() {
            let how = "the key is encrypted, and there is no key for its passphrase: decrypt it (openssl pkey -in KEY -out PLAIN) and protect the file";
            return Err(self.wrong(&how));
        }
        PKey::private_key_from_pem(&pem).map_err(|e| self.wrong(&e))
    }
}

/// Shows this certificate, with its chain, to the other side. Returns it.
pub(crate) fn identify(
    builder: &mut SslContextBuilder,
    certificate: Named<'_>,
    key: Named<'_>,
) -> Result<X509, Failure> {
    let (chain, private) = (certificate.certificates()?, key.private_key()?);
    let fits = chain[0].public_key().is_ok_and(|public| public.public_eq(&private));
    if !fits {
        let why = format!("the key does not belong to the certificate in {}", certificate.path.display());
        return Err(key.wrong(&why));
    }
    builder.set_certificate(&chain[0]).map_err(|e| certificate.wrong(&e))?;
    builder.set_private_key(&private).map_err(|e| key.wrong(&e))?;
    for issuer in &chain[1..] {
        builder.add_extra_chain_cert(issuer.clone()).map_err(|e| certificate.wrong(&e))?;
    }
    Ok(chain[0].clone())
}

/// Starts the settings of a client that verifies the server by these authorities, or else by those of the environment (`SSL_CERT_FILE`,
/// `SSL_CERT_DIR`) or of the system.
pub(crate) fn client(key: &str, authorities: Option<Named<'_>>) -> Result<SslConnectorBuilder, Failure> {
    let failed = |e: openssl::error::ErrorStack| Failure::config(format!("{key}: {e}"));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    match authorities {
        Some(authorities) => builder.set_cert_store(authorities.authorities()?),
        None => {
            // An OpenSSL that was built from source does not know where the system keeps them. What cannot be read is not trusted.
            let found = openssl_probe::probe();
            let folder = found.cert_dir.first().map(PathBuf::as_path);
            let _ = builder.load_verify_locations(found.cert_file.as_deref(), folder);
        }
    }
    Ok(builder)
}

/// Accepts exactly this certificate from the other side, whoever issued it and whatever it names.
pub(crate) fn accept_only(builder: &mut SslContextBuilder, known: &X509) {
    let known = known.clone();
    builder.set_verify_callback(SslVerifyMode::PEER, move |_, context| is_known(context, &known));
}

/// Requires a certificate from the other side: one of the trusted authorities, or this one.
pub(crate) fn require_trusted_or(builder: &mut SslContextBuilder, known: &X509) {
    let known = known.clone();
    let mode = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    builder.set_verify_callback(mode, move |is_trusted, context| is_trusted || is_known(context, &known));
}

/// Why the other side's certificate was refused, which OpenSSL leaves out of its errors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// The latest reason since the last call.
    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Verifies the other side's certificate, which must be for its address or for one of these names. Leaves the reason of a refusal.
pub(crate) fn accept_names(builder: &mut SslContextBuilder, names: &[String], refusal: &Refusal) {
    let (names, refusal) = (names.to_vec(), refusal.clone());
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_trusted, context| {
        let why = if is_trusted { None } else { refused(context, &names) };
        let is_accepted = why.is_none();
        if is_accepted && !is_trusted {
            context.set_error(X509VerifyResult::OK);
        }
        if !is_accepted {
            *refusal.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
        }
        is_accepted
    });
}

/// OpenSSL's number for a certificate that is for another address.
const ADDRESS_MISMATCH: i32 = 64;

/// Why a certificate that OpenSSL refuses is refused; none if it is only for another address, and for one of the names.
fn refused(context: &X509StoreContextRef, names: &[String]) -> Option<String> {
    let error = context.error();
    if error.as_raw() != ADDRESS_MISMATCH {
        return Some(error.error_string().to_owned());
    }
    let shown = context.current_cert().and_then(X509Ref::subject_alt_names);
    let shown = shown.iter().flatten();
    let shown: Vec<String> = shown.filter_map(|name| name.dnsname().map(str::to_owned)).collect();
    if names.iter().any(|name| shown.iter().any(|pattern| is_for(pattern, name))) {
        return None;
    }
    let list = |names: &[String]| if names.is_empty() { "no host name".to_owned() } else { names.join(", ") };
    let wanted = if names.is_empty() { String::new() } else { format!(", nor of {}", list(names)) };
    Some(format!("the certificate is that of {}, and not of the address that was connected to{wanted}", list(&shown)))
}

/// Whether a name in a certificate is this one, or a pattern like `*.db.example` that it fits.
fn is_for(pattern: &str, name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let wildcard = || {
        let (first, rest) = name.split_once('.')?;
        let tail = pattern.strip_prefix("*.")?;
        Some(!first.is_empty() && tail.contains('.') && tail.eq_ignore_ascii_case(rest))
    };
    pattern.eq_ignore_ascii_case(name) || wildcard().unwrap_or(false)
}

fn is_known(context: &mut X509StoreContextRef, known: &X509) -> bool {
    let shown = context.chain().and_then(|chain| chain.get(0)).and_then(|leaf| leaf.to_der().ok());
    let is_known = shown.is_some() && shown == known.to_der().ok();
    if is_known {
        context.set_error(X509VerifyResult::OK);
    }
    is_known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_key_is_refused_without_asking_for_its_passphrase() {
        let key = openssl::rsa::Rsa::generate(2048).expect("there is entropy");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        for (pem, word) in [
            (
                key.private_key_to_pem_passphrase(openssl::symm::Cipher::aes_256_cbc(), b"secret")
                    .expect("it is a key"),
                "encrypted",
            ),
            (b"no key".to_vec(), "PEM"),
        ] {
            std::fs::write(file.path(), pem).expect("writable");
            let failure = Named { key: "sink.cql.tls.key", path: file.path() }.private_key().expect_err("it is no key");
            let at = format!("sink.cql.tls.key: {}: ", file.path().display());
            assert!(failure.message.starts_with(&at) && failure.message.contains(word), "{}", failure.message);
        }
    }

    #[test]
    fn a_certificate_is_for_its_names_and_for_those_that_fit_its_patterns() {
        for (pattern, name) in
            [("db.example", "DB.example"), ("db.example", "db.example."), ("*.db.example", "a.db.example")]
        {
            assert!(is_for(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("db.example", "a.db.example"),
            ("*.db.example", "db.example"),
            ("*.db.example", "a.b.db.example"),
            ("*.example", "db.example"),
            ("*", "localhost"),
            ("a*.db.example", "ab.db.example"),
            ("", "localhost"),
        ] {
            assert!(!is_for(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let failure = Named { key: "--admin-ca", path: file.path() }.authorities().map(drop).expect_err("it is empty");
        assert!(failure.message.contains("has no certificate in PEM form"), "{}", failure.message);
        let missing = file.path().join("none");
        let failure = Named { key: "--admin-ca", path: &missing }.authorities().map(drop).expect_err("it is missing");
        assert!(failure.message.starts_with("--admin-ca: ") && failure.message.contains("none"), "{}", failure.message);
    }
}
