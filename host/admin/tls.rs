//! TLS of the admin API: its certificate, which is read again once its files have changed, and who the client is.

use std::pin::Pin;
use std::sync::Mutex;

use openssl::nid::Nid;
use openssl::ssl::{Ssl, SslAcceptor, SslContext, SslMethod, SslOptions, SslSessionCacheMode};
use openssl::x509::X509Ref;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::config::{Admin, AdminTls};
use crate::failure::{Check, Failure};
use crate::symptom::Symptom;
use crate::tls::{self, Named};
use crate::watched::{Stamp, stamp};

/// The host's side of TLS.
pub(super) struct Tls {
    config: AdminTls,
    current: Mutex<Current>,
}

struct Current {
    stamps: Vec<Stamp>,
    context: SslContext,
}

/// Returns what is wrong with the files of `[admin.tls]`.
pub(super) fn check(admin: &Admin) -> Option<Check> {
    let failure = context(admin.tls.as_ref()?).err()?;
    Some(Check::refused("admin", failure).of(Symptom::ConfigWrong))
}

impl Tls {
    /// Reads the files.
    pub(super) fn new(config: &AdminTls) -> Result<Tls, Failure> {
        let current = Current { stamps: stamps(config), context: context(config)? };
        Ok(Tls { config: config.clone(), current: Mutex::new(current) })
    }

    /// Shakes hands with a client; returns the connection, or none if they cannot agree.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<SslStream<TcpStream>> {
        let mut stream = SslStream::new(Ssl::new(&self.context()).ok()?, stream).ok()?;
        Pin::new(&mut stream).accept().await.ok()?;
        Some(stream)
    }

    /// The files of a certificate are replaced one by one, so those that do not fit together change nothing: the next change is another try.
    fn context(&self) -> SslContext {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stamps = stamps(&self.config);
        if stamps != current.stamps {
            match context(&self.config) {
                Ok(context) => {
                    current.context = context;
                    tracing::info!(event = "admin-certificate-read", "the certificate of the admin API has changed");
                }
                Err(failure) => {
                    let why = failure.message;
                    tracing::warn!(event = "admin-certificate-refused", why, "keeping the former certificate");
                }
            }
            current.stamps = stamps;
        }
        current.context.clone()
    }
}

fn stamps(config: &AdminTls) -> Vec<Stamp> {
    let files = [Some(&config.certificate), Some(&config.key), config.client_ca.as_ref()];
    files.into_iter().flatten().map(|path| stamp(path)).collect()
}

fn context(config: &AdminTls) -> Result<SslContext, Failure> {
    let failed = |e: openssl::error::ErrorStack| Failure::config(format!("admin.tls: {e}"));
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).map_err(failed)?;
    // Without resumption each connection shows its certificate, and a changed authority holds for the next one.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
    builder.set_num_tickets(0).map_err(failed)?;
    let certificate = Named { key: "admin.tls.certificate", path: &config.certificate };
    let own = tls::identify(&mut builder, certificate, Named { key: "admin.tls.key", path: &config.key })?;
    if let Some(path) = &config.client_ca {
        let authorities = Named { key: "admin.tls.client_ca", path };
        builder.set_cert_store(authorities.authorities()?);
        for authority in authorities.certificates()? {
            builder.add_client_ca(&authority).map_err(failed)?;
        }
        // Whoever has the host's own key is on the host: `keyfold health` and `keyfold status` show it.
        tls::require_trusted_or(&mut builder, &own);
    }
    Ok(builder.build().into_context())
}

/// Returns the name in a client's certificate.
pub(super) fn name(certificate: &X509Ref) -> String {
    let name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    let name = name.and_then(|name| name.data().to_string().ok());
    name.map_or_else(|| "a certificate without a name".to_owned(), |name| format!("certificate of {name}"))
}
