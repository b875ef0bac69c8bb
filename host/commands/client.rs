//! The client of the admin API, for commands with `--admin URL`.

mod connect;

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Method, StatusCode};

use crate::admin::{Answer, STATUS, ShadowAnswer, Wanted, Withdrawal};
use crate::commands::client::connect::Reach;
pub(crate) use crate::commands::client::connect::TlsFiles;
use crate::config::{Admin, Listen};
use crate::deployment::Entry;
use crate::failure::{Exit, Failure};
use crate::observe::status::Status;
use crate::paths;

/// Requests of at least this many bytes ask the host for permission before they send their body.
const LARGE: usize = 64 << 10;

/// What is read of a token's file at most.
const TOKEN_BYTES: u64 = 64 << 10;
/// How long a probe waits for its answer.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// The probes of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether it makes progress.
    Live,
    /// Whether its lanes are running and can write.
    Ready,
    /// Whether its startup is complete.
    Startup,
}

impl Probe {
    /// Returns the probe that the options of `keyfold health` name.
    pub fn of(ready: bool, startup: bool) -> Probe {
        match (ready, startup) {
            (true, _) => Probe::Ready,
            (false, true) => Probe::Startup,
            (false, false) => Probe::Live,
        }
    }
}

/// A host's admin API.
#[derive(Clone, Debug)]
pub struct Client {
    reach: Reach,
    /// How a person names it.
    name: String,
    url: String,
    token: Option<String>,
}

impl Client {
    /// Creates a client for this URL, with the token in this file.
    pub(crate) fn new(url: &str, token_file: Option<&PathBuf>, files: TlsFiles<'_>) -> Result<Client, Failure> {
        // It is read once, so it may be a pipe.
        let read = |file: &PathBuf| {
            let mut text = String::new();
            let read = File::open(file).and_then(|file| file.take(TOKEN_BYTES).read_to_string(&mut text));
            read.map(|_| text)
                .map_err(|e| Failure::new(Exit::Config, format!("cannot read --token-file {}: {e}", file.display())))
        };
        let token = token_file.map(read).transpose()?.map(|token| token.trim().to_owned());
        let (reach, base) = match url.strip_prefix(Listen::UNIX) {
            Some(path) => (Reach::socket(path.into(), files)?, connect::SOCKET_URL),
            None => (Reach::of(url, files)?, url.trim_end_matches('/')),
        };
        Ok(Client { reach, name: url.to_owned(), url: base.to_owned(), token })
    }

    /// Creates a client for the local host with this configuration.
    pub fn here(admin: &Admin) -> Result<Client, Failure> {
        let token = admin.token.clone().or_else(|| admin.read_token.clone());
        let mut address = match &admin.listen {
            Listen::Tcp(address) => *address,
            Listen::Unix(path) => {
                let reach = Reach::socket(path.clone(), TlsFiles::default())?;
                return Ok(Client {
                    reach,
                    name: admin.listen.to_string(),
                    url: connect::SOCKET_URL.to_owned(),
                    token,
                });
            }
        };
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        let scheme = if admin.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        Ok(Client { reach: Reach::here(admin.tls.as_ref())?, name: url.clone(), url, token })
    }

    /// Sends a probe; returns whether the answer is yes, and the lines that say why.
    pub fn probe(&self, probe: Probe) -> Result<(bool, String), Failure> {
        let path = match probe {
            Probe::Live => "livez",
            Probe::Ready => "readyz",
            Probe::Startup => "startupz",
        };
        let away = |e: ureq::Error| Failure::new(Exit::Outside, format!("{}: {e}", self.name));
        let mut response =
            self.reach.agent(Some(PROBE_WAIT)).get(format!("{}/{path}", self.url)).call().map_err(away)?;
        Ok((response.status().is_success(), response.body_mut().read_to_string().map_err(away)?))
    }

    /// Returns the host's status.
    pub fn status(&self) -> Result<Status, Failure> {
        self.send_within(Some(PROBE_WAIT), Method::GET, STATUS, None::<&()>)
    }

    /// Attaches the bytes of a plugin's file to a request.
    pub fn attach(wanted: &mut Wanted, plugin: Option<String>) -> Result<(), Failure> {
        match plugin {
            Some(name) if name.starts_with("builtin:") => wanted.plugin = Some(name),
            Some(file) => {
                let bytes = paths::read(Path::new(&file));
                let bytes =
                    bytes.map_err(|e| Failure::new(Exit::Config, format!("cannot read the plugin {file}: {e}")))?;
                wanted.plugin_base64 = Some(STANDARD.encode(bytes));
            }
            None => {}
        }
        Ok(())
    }

    /// Orders a deployment; returns the checks, whether it was refused or not.
    pub fn deploy(&self, wanted: &Wanted) -> Result<Answer, Failure> {
        self.send(Method::POST, "/v1/deployments", Some(wanted))
    }

    /// Withdraws a deployment; returns its number.
    pub fn withdraw(&self, wanted: &Withdrawal) -> Result<u64, Failure> {
        let answer: Value = self.send(Method::POST, "/v1/withdraw", Some(wanted))?;
        answer["withdrawn"].as_u64().ok_or_else(|| self.unexpected("the answer names no deployment"))
    }

    /// Returns all deployments, oldest first.
    pub fn deployments(&self) -> Result<Vec<Entry>, Failure> {
        self.send(Method::GET, "/v1/deployments", None::<&()>)
    }

    /// Returns the shadow and its report.
    pub fn shadow(&self) -> Result<ShadowAnswer, Failure> {
        self.send(Method::GET, "/v1/shadow", None::<&()>)
    }

    /// Ends the shadow; returns its id.
    pub fn drop_shadow(&self) -> Result<String, Failure> {
        let answer: Value = self.send(Method::DELETE, "/v1/shadow", None::<&()>)?;
        Ok(answer["dropped"].as_str().unwrap_or_default().to_owned())
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        self.send_within(None, method, path, body)
    }

    fn send_within<T: DeserializeOwned>(
        &self,
        limit: Option<Duration>,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let away = |e: ureq::Error| Failure::new(Exit::Outside, format!("--admin {}: {e}", self.name));
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let bytes = body.map(|body| serde_json::to_vec(body).expect("plain data becomes JSON")).unwrap_or_default();
        if bytes.len() > LARGE {
            request = request.header("expect", "100-continue");
        }
        let request = request.header("content-type", "application/json").body(bytes);
        let request = request.map_err(|e| Failure::new(Exit::Config, format!("--admin {}: {e}", self.name)))?;
        let mut response = self.reach.agent(limit).run(request).map_err(away)?;
        let (status, text) = (response.status(), response.body_mut().read_to_string().map_err(away)?);
        let refused: Option<Value> = serde_json::from_str(&text).ok();
        if let Some(message) = refused.as_ref().and_then(|refused| refused["error"].as_str()) {
            let code =
                refused.as_ref().and_then(|refused| refused["exit"].as_u64()).and_then(|code| u8::try_from(code).ok());
            return Err(Failure::new(Exit::of_code(code.unwrap_or(1)), message.to_owned()));
        }
        if !status.is_success() && status != StatusCode::CONFLICT {
            return Err(self.unexpected(&format!("status {status}: {text}")));
        }
        serde_json::from_str(&text).map_err(|e| self.unexpected(&format!("the answer cannot be parsed: {e}")))
    }

    fn unexpected(&self, what: &str) -> Failure {
        Failure::new(Exit::Outside, format!("--admin {}: {what}", self.name))
    }
}
