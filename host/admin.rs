//! The admin API: a host's deployments over HTTP, for those who cannot reach its store. JSON in and out; each request does what the command
//! of the same name does. Owns routes, tokens and status codes; what is done is [`crate::rollout::order`]'s.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /v1/deployments` | lists them |
//! | `POST /v1/deployments` | orders one ([`Wanted`]), a shadow, or promotes the shadow |
//! | `POST /v1/withdraw` | withdraws one ([`Withdrawal`]) |
//! | `GET /v1/shadow` | what the shadow has found |
//! | `DELETE /v1/shadow` | ends it |
//! | `GET /v1/status` | how the host is doing ([`Status`]) |
//! | `GET /metrics` | the same and more, for Prometheus |
//! | `GET /livez`, `/readyz`, `/startupz` | 200 or 503, and why |
//!
//! The last two need no token, and tell no record, key or configuration; they answer from the beginning of the start on, the others but
//! the status when it is over.
//!
//! What changes anything needs the bearer token `admin.token`; with one, what only tells needs it as well. A refusal is status 409 with the
//! lines of what was looked at; a failure has a status by its exit code and says `{"error": ..., "exit": ...}`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::config::{self, Admin, Config};
use crate::deployment::Author;
use crate::deployment::shadow;
use crate::failure::{Check, Exit, Failure, Finding};
use crate::observe::board::Board;
use crate::observe::status::{self, Status};
use crate::observe::{health, metrics};
use crate::report;
use crate::rollout::order::{self, PluginFile};

/// The path of the host's status.
pub(crate) const STATUS: &str = "/v1/status";

/// What is to be deployed; what is not named stays as it is in force, as with `keyfold deploy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// The plugin's file.
    pub plugin_base64: Option<String>,
    /// Or a plugin that is part of the host: `builtin:visits`.
    pub plugin: Option<String>,
    /// Configuration of the plugin.
    pub config: Option<Value>,
    /// A former deployment to begin with.
    pub like: Option<u64>,
    /// Keys of the configuration with their values.
    pub set: BTreeMap<String, String>,
    /// T, ms since 1970.
    pub at: Option<i64>,
    /// From the beginning of the log.
    pub reprocess: bool,
    /// Beside the live logic.
    pub shadow: bool,
    /// What the shadow folds with.
    pub promote: bool,
    /// Look, and order nothing.
    pub dry_run: bool,
    /// Who.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What is to be withdrawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Withdrawal {
    /// Which deployment; the last if none is named.
    pub n: Option<u64>,
    /// Who.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What was looked at, and what was ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// A line for each thing that was looked at.
    pub checks: Vec<Line>,
    /// What was ordered, if it was, in words.
    pub order: Option<String>,
}

/// A thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `ok`, `warn` or `FAIL`.
    pub verdict: String,
    /// Exit code of the command, of a refusal.
    pub exit: Option<u8>,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub detail: String,
}

impl Line {
    fn of(check: &Check) -> Line {
        let (verdict, exit) = match check.finding {
            Finding::Fine => ("ok", None),
            Finding::Warning => ("warn", None),
            Finding::Refused(exit) => ("FAIL", Some(exit as u8)),
        };
        Line { verdict: verdict.into(), exit, subject: check.subject.clone(), detail: check.detail.clone() }
    }

    /// As the command tells it.
    pub fn check(&self) -> Check {
        let finding = match (self.verdict.as_str(), self.exit) {
            ("ok", _) => Finding::Fine,
            ("warn", _) => Finding::Warning,
            (_, exit) => Finding::Refused(exit_of(exit.unwrap_or(1))),
        };
        Check { subject: self.subject.clone(), detail: self.detail.clone(), finding, symptom: None }
    }
}

/// The exit of this code.
pub(crate) fn exit_of(code: u8) -> Exit {
    let all = [Exit::Config, Exit::Outside, Exit::Plugin, Exit::State];
    all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Unexpected)
}

/// What the handlers share.
struct Host {
    config: Config,
    /// Where the configuration was read, for other values of its keys.
    file: Option<PathBuf>,
    token: Option<[u8; 32]>,
    /// Bytes that a request may have.
    upload_bytes: usize,
    stuck_after: Duration,
    board: Arc<Board>,
}

/// Listens from now on; the address, whose port may have been chosen by the system.
pub fn serve(
    config: &Config,
    admin: &Admin,
    file: Option<PathBuf>,
    (runtime, board): (&Handle, &Arc<Board>),
) -> Result<SocketAddr, Failure> {
    let refused = |e: std::io::Error| {
        Failure::new(Exit::Outside, format!("admin.listen: cannot listen on {}: {e}", admin.listen))
    };
    let listener = TcpListener::bind(admin.listen).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let token = admin.token.as_ref().map(|token| Sha256::digest(token).into());
    let host = Arc::new(Host {
        config: config.clone(),
        file,
        token,
        upload_bytes: admin.upload_bytes,
        stuck_after: admin.stuck_after,
        board: Arc::clone(board),
    });
    let probes = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/startupz", get(startup))
        .route("/metrics", get(metrics_page))
        .with_state(Arc::clone(&host));
    let routes = Router::new()
        .route("/v1/deployments", get(deployments).post(deploy))
        .route("/v1/withdraw", post(withdraw))
        .route("/v1/shadow", get(shadow_report).delete(drop_shadow))
        .route(STATUS, get(status_of_host))
        .layer(DefaultBodyLimit::max(admin.upload_bytes))
        .layer(from_fn_with_state(Arc::clone(&host), allow))
        .with_state(host)
        .merge(probes);
    let inside = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
    drop(inside);
    runtime.spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(event = "admin-api-failed", %error, "admin API stopped");
        }
    });
    Ok(address)
}

/// Lets through who has the token, and who only looks where there is none; nothing that is too large. What is refused here is refused
/// before its body is read: a client that sent `Expect: 100-continue` has not sent it yet.
async fn allow(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(length) = length.filter(|length: &usize| *length > host.upload_bytes) {
        let message = format!("the request has {length} bytes, admin.upload_limit allows {}", host.upload_bytes);
        return error(StatusCode::PAYLOAD_TOO_LARGE, &message, Exit::Config);
    }
    if !host.board.has_started() && request.uri().path() != STATUS {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the host is starting", Exit::Outside);
    }
    let Some(token) = &host.token else {
        if request.method() == Method::GET {
            return next.run(request).await;
        }
        let message = "admin.token is not configured: without it the admin API changes nothing";
        return error(StatusCode::FORBIDDEN, message, Exit::Config);
    };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(|given| Sha256::digest(given.trim()));
    // Digests are compared: how long that takes says nothing of the token.
    if given.is_some_and(|given| given[..] == token[..]) {
        return next.run(request).await;
    }
    error(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong", Exit::Config)
}

fn error(status: StatusCode, message: &str, exit: Exit) -> Response {
    (status, Json(json!({"error": message, "exit": exit as u8}))).into_response()
}

/// Does it on a thread that may wait, and answers with what came of it.
async fn answer<T: Serialize + Send + 'static>(
    host: Arc<Host>,
    work: impl FnOnce(&Host) -> Result<(StatusCode, T), Failure> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || work(&host)).await {
        Ok(Ok((status, value))) => (status, Json(value)).into_response(),
        Ok(Err(failure)) => {
            let status = match failure.exit {
                Exit::Config => StatusCode::BAD_REQUEST,
                Exit::Outside => StatusCode::SERVICE_UNAVAILABLE,
                Exit::Plugin | Exit::State => StatusCode::CONFLICT,
                Exit::Unexpected => StatusCode::INTERNAL_SERVER_ERROR,
            };
            error(status, &failure.message, failure.exit)
        }
        Err(_) => {
            error(StatusCode::INTERNAL_SERVER_ERROR, "the request ended by a panic: this is a bug", Exit::Unexpected)
        }
    }
}

// ---- how the host is doing

async fn live(State(host): State<Arc<Host>>) -> Response {
    probe(&health::live(&host.board, host.stuck_after))
}

async fn ready(State(host): State<Arc<Host>>) -> Response {
    probe(&health::ready(&host.board))
}

async fn startup(State(host): State<Arc<Host>>) -> Response {
    probe(&health::startup(&host.board))
}

fn probe(checks: &[Check]) -> Response {
    let status = if health::is_well(checks) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, report::check_lines(checks) + "\n").into_response()
}

async fn metrics_page(State(host): State<Arc<Host>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], metrics::page(&host.board, host.stuck_after)).into_response()
}

async fn status_of_host(State(host): State<Arc<Host>>) -> Json<Status> {
    Json(status::of_host(&host.board, host.stuck_after))
}

// ---- deployments

async fn deployments(State(host): State<Arc<Host>>) -> Response {
    answer(host, |host| Ok((StatusCode::OK, order::deployments(&host.config)?))).await
}

async fn deploy(State(host): State<Arc<Host>>, Json(wanted): Json<Wanted>) -> Response {
    answer(host, |host| {
        let dry_run = wanted.dry_run;
        let ordered = order::deploy(&host.config, &wanted.request(host)?)?;
        let refused = ordered.checks.iter().any(|check| matches!(check.finding, Finding::Refused(_)));
        let done = ordered.order.is_some() || dry_run && !refused;
        let checks = ordered.checks.iter().map(Line::of).collect();
        let order = ordered.order.map(|order| order.to_string());
        tracing::info!(event = "admin-request", order, "admin request received");
        Ok((if done { StatusCode::OK } else { StatusCode::CONFLICT }, Answer { checks, order }))
    })
    .await
}

async fn withdraw(State(host): State<Arc<Host>>, Json(wanted): Json<Withdrawal>) -> Response {
    answer(host, move |host| {
        let author = Author { by: wanted.by, reason: wanted.reason };
        Ok((StatusCode::OK, json!({"withdrawn": order::withdraw(&host.config, wanted.n, &author)?})))
    })
    .await
}

async fn shadow_report(State(host): State<Arc<Host>>) -> Response {
    answer(host, |host| {
        let (shadow, report) = order::shadow(&host.config)?;
        Ok((StatusCode::OK, Shadowing { shadow, report }))
    })
    .await
}

async fn drop_shadow(State(host): State<Arc<Host>>) -> Response {
    answer(host, |host| Ok((StatusCode::OK, json!({"dropped": order::drop_shadow(&host.config)?.id})))).await
}

/// A shadow and what it has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shadowing {
    /// What was ordered.
    pub shadow: shadow::Shadow,
    /// What was found.
    pub report: shadow::Report,
}

impl Wanted {
    fn request(self, host: &Host) -> Result<order::Request, Failure> {
        let bad = |message: String| Failure::new(Exit::Config, message);
        let plugin = match (self.plugin_base64, self.plugin) {
            (Some(_), Some(_)) => return Err(bad("plugin and plugin_base64 are both given".into())),
            (Some(text), None) => {
                let bytes = STANDARD.decode(text).map_err(|e| bad(format!("plugin_base64 is not base64: {e}")))?;
                Some(PluginFile::Bytes(bytes))
            }
            (None, Some(name)) if name.starts_with("builtin:") => Some(PluginFile::Named(name)),
            (None, Some(_)) => {
                return Err(bad(
                    "plugin names a file, which the host does not read: send its bytes as plugin_base64".into()
                ));
            }
            (None, None) => None,
        };
        let keys: Vec<String> = self.set.keys().cloned().collect();
        order::settable(&keys)?;
        let set = match &host.file {
            _ if keys.is_empty() => None,
            Some(file) => {
                let variables = self.set.into_iter().map(|(key, value)| (config::variable(&key), value));
                Some((keys, config::load(file, config::environment().chain(variables))?))
            }
            None => return Err(bad("set: this host has no configuration file".into())),
        };
        Ok(order::Request {
            plugin,
            config: self.config,
            like: self.like,
            set,
            at: self.at,
            reprocess: self.reprocess,
            shadow: self.shadow,
            promote: self.promote,
            dry_run: self.dry_run,
            author: Author { by: self.by, reason: self.reason },
        })
    }
}
