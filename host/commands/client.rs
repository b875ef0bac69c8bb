//! The commands' side of the admin API: `keyfold deploy --admin URL` and its like.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Method, StatusCode};

use crate::admin::{Answer, STATUS, Shadowing, Wanted, Withdrawal, exit_of};
use crate::config::Admin;
use crate::deployment::Entry;
use crate::failure::{Exit, Failure};
use crate::observe::status::Status;

/// Bytes of a request from which on the host is asked whether it takes them, before they are sent.
const LARGE: usize = 64 << 10;

/// How long a probe waits for its answer.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// What is asked of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether it makes progress.
    Live,
    /// Whether its lanes are at work and can write.
    Ready,
    /// Whether its start is over.
    Startup,
}

/// A host's admin API.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

impl Client {
    /// The API at this URL, with the token in this file.
    pub fn new(url: &str, token_file: Option<&PathBuf>) -> Result<Client, Failure> {
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file);
            text.map_err(|e| {
                Failure::new(Exit::Config, format!("--token-file: {} cannot be read: {e}", file.display()))
            })
        };
        let token = token_file.map(read).transpose()?.map(|token| token.trim().to_owned());
        Ok(Client { agent: agent(None), url: url.trim_end_matches('/').to_owned(), token })
    }

    /// The API of the host that runs here with this configuration.
    pub fn here(admin: &Admin) -> Client {
        let mut address = admin.listen;
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        Client { agent: agent(None), url: format!("http://{address}"), token: admin.token.clone() }
    }

    /// Asks it; whether the answer is yes, and the lines that say why.
    pub fn probe(&self, probe: Probe) -> Result<(bool, String), Failure> {
        let path = match probe {
            Probe::Live => "livez",
            Probe::Ready => "readyz",
            Probe::Startup => "startupz",
        };
        let away = |e: ureq::Error| Failure::new(Exit::Outside, format!("{}: {e}", self.url));
        let mut response = agent(Some(PROBE_WAIT)).get(format!("{}/{path}", self.url)).call().map_err(away)?;
        Ok((response.status().is_success(), response.body_mut().read_to_string().map_err(away)?))
    }

    /// How it is doing.
    pub fn status(&self) -> Result<Status, Failure> {
        let client = Client { agent: agent(Some(PROBE_WAIT)), ..self.clone() };
        client.send(Method::GET, STATUS, None::<&()>)
    }

    /// Sends this plugin's file along.
    pub fn attach(wanted: &mut Wanted, plugin: Option<String>) -> Result<(), Failure> {
        match plugin {
            Some(name) if name.starts_with("builtin:") => wanted.plugin = Some(name),
            Some(file) => {
                let bytes = std::fs::read(Path::new(&file));
                let bytes = bytes.map_err(|e| Failure::new(Exit::Config, format!("{file} cannot be read: {e}")))?;
                wanted.plugin_base64 = Some(STANDARD.encode(bytes));
            }
            None => {}
        }
        Ok(())
    }

    /// Asks for a deployment; refused or not, what was looked at comes back.
    pub fn deploy(&self, wanted: &Wanted) -> Result<Answer, Failure> {
        self.send(Method::POST, "/v1/deployments", Some(wanted))
    }

    /// Withdraws a deployment; its number.
    pub fn withdraw(&self, wanted: &Withdrawal) -> Result<u64, Failure> {
        let answer: Value = self.send(Method::POST, "/v1/withdraw", Some(wanted))?;
        answer["withdrawn"].as_u64().ok_or_else(|| self.unexpected("it names no deployment"))
    }

    /// All deployments.
    pub fn deployments(&self) -> Result<Vec<Entry>, Failure> {
        self.send(Method::GET, "/v1/deployments", None::<&()>)
    }

    /// The shadow and its report.
    pub fn shadow(&self) -> Result<Shadowing, Failure> {
        self.send(Method::GET, "/v1/shadow", None::<&()>)
    }

    /// Ends the shadow; its id.
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
        let away = |e: ureq::Error| Failure::new(Exit::Outside, format!("--admin {}: {e}", self.url));
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let bytes = body.map(|body| serde_json::to_vec(body).expect("plain data becomes JSON")).unwrap_or_default();
        if bytes.len() > LARGE {
            request = request.header("expect", "100-continue");
        }
        let request = request.header("content-type", "application/json").body(bytes);
        let request = request.map_err(|e| Failure::new(Exit::Config, format!("--admin {}: {e}", self.url)))?;
        let mut response = self.agent.run(request).map_err(away)?;
        let (status, text) = (response.status(), response.body_mut().read_to_string().map_err(away)?);
        let refused: Option<Value> = serde_json::from_str(&text).ok();
        if let Some(message) = refused.as_ref().and_then(|refused| refused["error"].as_str()) {
            let code =
                refused.as_ref().and_then(|refused| refused["exit"].as_u64()).and_then(|code| u8::try_from(code).ok());
            return Err(Failure::new(exit_of(code.unwrap_or(1)), message.to_owned()));
        }
        if !status.is_success() && status != StatusCode::CONFLICT {
            return Err(self.unexpected(&format!("status {status}: {text}")));
        }
        serde_json::from_str(&text).map_err(|e| self.unexpected(&format!("an answer that is none: {e}")))
    }

    fn unexpected(&self, what: &str) -> Failure {
        Failure::new(Exit::Outside, format!("--admin {}: {what}", self.url))
    }
}

fn agent(timeout: Option<Duration>) -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(timeout).build().into()
}
