//! How the client reaches a host: plain HTTP, TLS by OpenSSL, or a Unix socket. A proxy of the environment is never used for this machine.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslConnector, SslStream};
use openssl::x509::X509VerifyResult;
use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, TcpConnector,
    Transport, TransportAdapter,
};

use crate::config::AdminTls;
use crate::failure::Failure;
use crate::tls::{self, Named};

/// Files for TLS with a host elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TlsFiles<'a> {
    pub(crate) ca: Option<&'a Path>,
    pub(crate) certificate: Option<&'a Path>,
    pub(crate) key: Option<&'a Path>,
}

impl TlsFiles<'_> {
    fn any(&self) -> bool {
        self.ca.is_some() || self.certificate.is_some() || self.key.is_some()
    }
}

/// A way to a host.
#[derive(Clone)]
pub(super) struct Reach {
    tls: Option<SslConnector>,
    socket: Option<PathBuf>,
    is_here: bool,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("is_here", &self.is_here).finish_non_exhaustive()
    }
}

impl Reach {
    /// Returns the way to the host of a URL.
    pub(super) fn of(admin: &str, files: TlsFiles<'_>) -> Result<Reach, Failure> {
        let wrong = |why: &str| Failure::config(format!("--admin {admin}: {why}"));
        let url = url::Url::parse(admin).map_err(|e| wrong(&format!("{e}; expected a URL like {EXAMPLES}")))?;
        let is_here = url.host().is_some_and(|host| match host {
            url::Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
            url::Host::Ipv4(address) => address.is_loopback(),
            url::Host::Ipv6(address) => address.is_loopback(),
        });
        let given = files.any();
        match url.scheme() {
            "https" => Ok(Reach { tls: Some(connector(files)?), socket: None, is_here }),
            "http" if given => Err(wrong("certificates are of no use without TLS; write https://")),
            "http" => Ok(Reach { tls: None, socket: None, is_here }),
            _ => Err(wrong(&format!("expected a URL like {EXAMPLES}"))),
        }
    }

    /// Returns the way to the host at a Unix socket.
    pub(super) fn socket(path: PathBuf, files: TlsFiles<'_>) -> Result<Reach, Failure> {
        if files.any() {
            let why = "certificates are of no use on a Unix socket";
            return Err(Failure::config(format!("--admin unix:{}: {why}", path.display())));
        }
        Ok(Reach { tls: None, socket: Some(path), is_here: true })
    }

    /// Returns the way to the host of this machine that has this configuration. Its certificate may name other addresses than this one, so
    /// the host is known by the certificate itself. If it requires a certificate of its clients, the client shows the same one.
    pub(super) fn here(admin: Option<&AdminTls>) -> Result<Reach, Failure> {
        let Some(admin) = admin else { return Ok(Reach { tls: None, socket: None, is_here: true }) };
        let certificate = Named { key: "admin.tls.certificate", path: &admin.certificate };
        let mut builder = tls::client("admin.tls", None)?;
        if admin.client_ca.is_some() {
            tls::identify(&mut builder, certificate, Named { key: "admin.tls.key", path: &admin.key })?;
        }
        tls::accept_only(&mut builder, &certificate.certificates()?[0]);
        Ok(Reach { tls: Some(builder.build()), socket: None, is_here: true })
    }

    pub(super) fn agent(&self, timeout: Option<Duration>) -> ureq::Agent {
        let mut config = Config::builder().http_status_as_error(false).timeout_global(timeout);
        if self.is_here {
            config = config.proxy(None);
        }
        let connector = ().chain(Socket(self.socket.clone())).chain(ConnectProxyConnector::default());
        let connector = connector.chain(TcpConnector::default());
        ureq::Agent::with_parts(config.build(), connector.chain(Secured(self.tls.clone())), DefaultResolver::default())
    }
}

const EXAMPLES: &str = "http://127.0.0.1:9640, https://host.example:9640 or unix:/run/keyfold/admin.sock";

/// What requests to a Unix socket say they ask.
pub(super) const SOCKET_URL: &str = "http://127.0.0.1";

fn connector(files: TlsFiles<'_>) -> Result<SslConnector, Failure> {
    let mut builder = tls::client("--admin", files.ca.map(|path| Named { key: "--admin-ca", path }))?;
    if let (Some(certificate), Some(key)) = (files.certificate, files.key) {
        let certificate = Named { key: "--admin-certificate", path: certificate };
        tls::identify(&mut builder, certificate, Named { key: "--admin-key", path: key })?;
    }
    Ok(builder.build())
}

/// Connects to a Unix socket, if there is one.
#[derive(Debug)]
struct Socket(Option<PathBuf>);

impl<In: Transport> Connector<In> for Socket {
    type Out = SocketTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(path) = &self.0 else { return Ok(None) };
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(SocketTransport { buffers, stream: UnixStream::connect(path)? }))
    }
}

#[derive(Debug)]
struct SocketTransport {
    buffers: LazyBuffers,
    stream: UnixStream,
}

/// A socket that is not ready in time says that it would block.
fn timed(error: std::io::Error, timeout: NextTimeout) -> ureq::Error {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    if matches!(error.kind(), TimedOut | WouldBlock) { ureq::Error::Timeout(timeout.reason) } else { error.into() }
}

impl Transport for SocketTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.set_write_timeout(timeout.not_zero().map(|limit| *limit))?;
        self.stream.write_all(&self.buffers.output()[..amount]).map_err(|e| timed(e, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.set_read_timeout(timeout.not_zero().map(|limit| *limit))?;
        let amount = self.stream.read(self.buffers.input_append_buf()).map_err(|e| timed(e, timeout))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// An agent makes one request.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// Wraps connections for `https://` in TLS.
struct Secured(Option<SslConnector>);

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secured")
    }
}

impl<In: Transport> Connector<In> for Secured {
    type Out = Either<In, SecuredTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        // A proxy's answer to CONNECT is a transport like any other.
        let Some(connector) = self.0.as_ref().filter(|_| details.needs_tls()) else {
            return Ok(Some(Either::A(transport)));
        };
        let name = details.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let mut adapter = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        adapter.set_timeout(details.timeout);
        let stream = connector.connect(name, adapter).map_err(refused)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(SecuredTransport { buffers, stream })))
    }
}

/// Says why a handshake failed: for a certificate that is not trusted, what is wrong with it.
fn refused<S>(failed: HandshakeError<S>) -> ureq::Error {
    let (HandshakeError::Failure(stream) | HandshakeError::WouldBlock(stream)) = failed else {
        return std::io::Error::other("TLS cannot be set up").into();
    };
    let verdict = stream.ssl().verify_result();
    let error = stream.into_error();
    if verdict != X509VerifyResult::OK {
        return std::io::Error::other(format!("the host's certificate is refused: {verdict}; see --admin-ca")).into();
    }
    match error.into_io_error() {
        Ok(error) => error.into(),
        Err(error) => std::io::Error::other(format!("TLS failed: {error}")).into(),
    }
}

struct SecuredTransport {
    buffers: LazyBuffers,
    stream: SslStream<TransportAdapter>,
}

impl fmt::Debug for SecuredTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecuredTransport")
    }
}

impl Transport for SecuredTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
