//! The server of the admin API, and of the probes' own address: routes, the token, status codes. What is done is [`crate::rollout::order`]'s.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::audit::{self, Asked, Audit};
use super::connections::{self, Peer};
use super::listener::{Bound, Listener};
use super::throttle::Throttle;
use super::tls::{self, Tls};
use super::tokens::{Role, Tokens};
use super::wire::{Answer, STATUS, ShadowAnswer, Wanted, Withdrawal};
use crate::clock;
use crate::config::{self, Admin, Config, Listen};
use crate::deployment::Author;
use crate::failure::{Check, Exit, Failure, first_refused};
use crate::observe::board::Board;
use crate::observe::{health, metrics, status};
use crate::printable::printable;
use crate::report;
use crate::rollout::order::{self, PluginFile};
use crate::symptom::Symptom;

/// What the handlers share.
struct Host {
    config: Config,
    /// The configuration file, to load it with other values for some keys.
    file: Option<PathBuf>,
    /// Without any, everybody may read.
    tokens: Tokens,
    /// Limit of a request, bytes.
    upload_bytes: usize,
    stuck_after: Duration,
    /// Whether it listens on a Unix socket: who may connect is up to the permissions of the file.
    is_socket: bool,
    /// Whether it listens on loopback only, without a certificate that the name in a request must match.
    is_local: bool,
    /// Requests with a wrong token so far.
    refused: AtomicU64,
    throttle: Throttle,
    audit: Audit,
    board: Arc<Board>,
}

/// Requests that are being worked on at once; more wait.
const MOST_AT_WORK: usize = 8;
/// Connections at once.
const MOST_CONNECTIONS: usize = 256;
/// The same at the probes' own address.
const MOST_PROBING: usize = 64;

/// A server at work; it ends with the value.
#[derive(Debug)]
pub struct Server {
    /// Its address, whose port may have been chosen by the system.
    pub address: Listen,
    /// The address of `admin.probes`.
    pub probes: Option<Listen>,
    runtimes: Vec<Runtime>,
    _bound: Bound,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtimes.drain(..).for_each(Runtime::shutdown_background);
    }
}

/// Starts the server, on threads of its own.
pub fn serve(config: &Config, admin: &Admin, file: Option<PathBuf>, board: &Arc<Board>) -> Result<Server, Failure> {
    let tls = admin.tls.as_ref().map(Tls::new).transpose()?.map(Arc::new);
    let (runtime, listener, bound) = bind("admin.listen", "admin", &admin.listen)?;
    let address = bound.listen();
    if in_clear(admin) {
        tracing::warn!(event = "admin-in-clear", %address, "{IN_CLEAR}");
    }
    let host = Arc::new(Host {
        config: config.clone(),
        file,
        tokens: Tokens::new(admin),
        audit: Audit::open(admin.audit_log.as_deref())?,
        upload_bytes: admin.upload_bytes,
        stuck_after: admin.stuck_after,
        is_socket: matches!(address, Listen::Unix(_)),
        is_local: matches!(address, Listen::Tcp(_)) && !address.is_exposed() && tls.is_none(),
        refused: AtomicU64::new(0),
        throttle: Throttle::new(clock::instant()),
        board: Arc::clone(board),
    });
    let mut runtimes = vec![runtime];
    let probes = admin.probes.map(|probes| serve_probes(probes, &host)).transpose()?.map(|(address, runtime)| {
        runtimes.push(runtime);
        address
    });
    runtimes[0].spawn(connections::serve(listener, tls, MOST_CONNECTIONS, routes(host)));
    Ok(Server { address, probes, runtimes, _bound: bound })
}

/// Serves nothing but probes and metrics at an address of their own, on a thread of its own: whatever the admin API is busy with, they answer.
fn serve_probes(address: SocketAddr, host: &Arc<Host>) -> Result<(Listen, Runtime), Failure> {
    let (runtime, listener, bound) = bind("admin.probes", "probes", &Listen::Tcp(address))?;
    runtime.spawn(connections::serve(listener, None, MOST_PROBING, probes(host)));
    Ok((bound.listen(), runtime))
}

/// Listens, with a runtime for what is asked there.
fn bind(key: &str, thread: &str, listen: &Listen) -> Result<(Runtime, Listener, Bound), Failure> {
    let refused = |e: std::io::Error| Failure::new(Exit::Outside, format!("cannot listen on {key} {listen}: {e}"));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).max_blocking_threads(MOST_AT_WORK).thread_name(thread).enable_all();
    let runtime = runtime.build().map_err(refused)?;
    let inside = runtime.enter();
    let (listener, bound) = Listener::bind(listen).map_err(refused)?;
    drop(inside);
    Ok((runtime, listener, bound))
}

/// What is wrong with tokens on a network.
const IN_CLEAR: &str =
    "admin.listen is not a loopback address and admin.tls is not configured, so tokens travel in clear";

fn in_clear(admin: &Admin) -> bool {
    admin.listen.is_exposed() && admin.tls.is_none()
}

/// Returns what is wrong with `[admin]`: files that cannot serve, or tokens in clear.
pub(crate) fn check(admin: &Admin) -> Option<Check> {
    if let Some(failure) = admin.audit_log.as_deref().and_then(|path| audit::check(path).err()) {
        return Some(Check::refused("admin", failure).of(Symptom::ConfigWrong));
    }
    let clear = in_clear(admin).then(|| Check::warning("admin", IN_CLEAR).of(Symptom::AdminInClear));
    tls::check(admin).or(clear)
}

/// What needs no token.
fn probes(host: &Arc<Host>) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/startupz", get(startup))
        .route("/metrics", get(metrics_page))
        .with_state(Arc::clone(host))
}

fn routes(host: Arc<Host>) -> Router {
    let probes = probes(&host);
    Router::new()
        .route("/v1/deployments", get(deployments).post(deploy))
        .route("/v1/withdraw", post(withdraw))
        .route("/v1/shadow", get(shadow_report).delete(drop_shadow))
        .route(STATUS, get(status_of_host))
        .layer(DefaultBodyLimit::max(host.upload_bytes))
        .layer(from_fn_with_state(Arc::clone(&host), allow))
        .with_state(host)
        .merge(probes)
}

/// Checks size and token. Without a configured token only reading is allowed. A refusal here comes before the body is read: a client that
/// sent `Expect: 100-continue` has not sent it yet.
async fn allow(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(length) = length.filter(|length: &usize| *length > host.upload_bytes) {
        let message = format!("the request has {length} bytes, but admin.upload_limit allows {}", host.upload_bytes);
        return error(StatusCode::PAYLOAD_TOO_LARGE, &message, Exit::Config);
    }
    let name = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_local && !name.is_none_or(is_this_machine) {
        let message = "the request's Host header names another machine, and admin.listen is a loopback address; ask for localhost";
        return error(StatusCode::FORBIDDEN, message, Exit::Config);
    }
    if !host.board.has_started() && request.uri().path() != STATUS {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the host is starting", Exit::Outside);
    }
    if let Some(wait) = host.throttled(&request) {
        host.note_refused(&request, StatusCode::TOO_MANY_REQUESTS);
        return try_again(wait);
    }
    let is_reading = request.method() == Method::GET || request.method() == Method::HEAD;
    match host.role(&request) {
        Some(_) if is_reading => next.run(request).await,
        Some(Role::Deploy) => noted(&host, request, next).await,
        Some(Role::Read) if host.tokens.are_none => {
            let message = "the admin API is read-only: admin.token is not configured";
            error(StatusCode::FORBIDDEN, message, Exit::Config)
        }
        Some(Role::Read) => {
            host.note_refused(&request, StatusCode::FORBIDDEN);
            let message = "this token is admin.read_token, which may only read; admin.token may change things";
            error(StatusCode::FORBIDDEN, message, Exit::Config)
        }
        None => {
            host.note_refused(&request, StatusCode::UNAUTHORIZED);
            error(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong", Exit::Config)
        }
    }
}

/// Performs a request that may change something, between two notes of it.
async fn noted(host: &Host, request: Request, next: Next) -> Response {
    let n = match host.audit.asked(request.method().as_str(), request.uri().path(), host.token()) {
        Ok(n) => n,
        Err(why) => {
            let message = format!("cannot append to admin.audit_log, so nothing is changed: {why}");
            return error(StatusCode::SERVICE_UNAVAILABLE, &message, Exit::Outside);
        }
    };
    let response = next.run(request).await;
    let asked = response.extensions().get::<Asked>().cloned().unwrap_or_default();
    host.audit.answered(n, response.status().as_u16(), &asked);
    response
}

impl Host {
    /// What a request may do; none if it lacks a token.
    fn role(&self, request: &Request) -> Option<Role> {
        if self.tokens.are_none {
            return Some(if self.is_socket { Role::Deploy } else { Role::Read });
        }
        let role = self.tokens.role(given(request)?);
        if role.is_none() {
            self.throttle.failed(address(request), clock::instant());
        }
        role
    }

    /// How long a request must wait because its peer has sent wrong tokens; none if it need not.
    fn throttled(&self, request: &Request) -> Option<Duration> {
        given(request).filter(|_| !self.tokens.are_none)?;
        self.throttle.wait(address(request), clock::instant())
    }

    /// The token that a change was made with.
    fn token(&self) -> Option<&'static str> {
        (!self.tokens.are_none).then_some("admin.token")
    }

    fn note_refused(&self, request: &Request, status: StatusCode) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        // The first, and then ever fewer: whoever tries tokens must not fill the log.
        if refused.is_power_of_two() {
            let (method, path) = (request.method(), request.uri().path());
            tracing::warn!(event = "admin-token-refused", %method, path, refused, "admin request without the right token refused");
            self.audit.refused(method.as_str(), path, status.as_u16(), refused);
        }
    }
}

/// The token that a request brings.
fn given(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().unwrap_or_default();
    Some(value.strip_prefix("Bearer ")?.trim())
}

fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>()?.address
}

/// Refuses a request whose peer has sent wrong tokens.
fn try_again(wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let message = format!("too many wrong tokens came from this address; try again in {seconds} s");
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, &message, Exit::Outside);
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

/// The author that the journal names: how they were authenticated, beside the name that they claim.
fn authenticated(host: &Host, claimed: Option<&String>, peer: &Peer) -> Option<String> {
    let how = [host.token(), peer.name.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ");
    Some(match claimed {
        Some(name) => format!("{name} ({how})"),
        None => how,
    })
}

/// Tells the audit log what a handler knows of a request.
fn told(mut response: Response, author: &Author) -> Response {
    let Author { by, reason } = author.clone();
    response.extensions_mut().insert(Asked { by, reason });
    response
}

/// Whether a Host header names this machine. A page in somebody's browser may send requests to a loopback address, under the name by which
/// the page was fetched.
pub(super) fn is_this_machine(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn error(status: StatusCode, message: &str, exit: Exit) -> Response {
    document(status, &json!({"error": message, "exit": exit as u8}))
}

/// Answers with a document. Texts of plugins, records and clients may be part of it.
fn document(status: StatusCode, value: &impl Serialize) -> Response {
    let text = printable(&report::line_of(value)).into_owned();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Answers a request whose body is not the document that is expected.
fn refused(rejection: &JsonRejection) -> Response {
    error(rejection.status(), &rejection.body_text(), Exit::Config)
}

/// Runs `work` on a thread that may block, and answers with its result.
async fn answer<T: Serialize + Send + 'static>(
    host: Arc<Host>,
    work: impl FnOnce(&Host) -> Result<(StatusCode, T), Failure> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || work(&host)).await {
        Ok(Ok((status, value))) => document(status, &value),
        Ok(Err(failure)) => {
            let status = match failure.exit {
                Exit::Config => StatusCode::BAD_REQUEST,
                Exit::Outside => StatusCode::SERVICE_UNAVAILABLE,
                Exit::Plugin | Exit::State => StatusCode::CONFLICT,
                Exit::Unexpected => StatusCode::INTERNAL_SERVER_ERROR,
            };
            error(status, &failure.message, failure.exit)
        }
        Err(_) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error: the request panicked; please report it",
            Exit::Unexpected,
        ),
    }
}

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
    (status, printable(&report::check_lines(checks)).into_owned() + "\n").into_response()
}

async fn metrics_page(State(host): State<Arc<Host>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], metrics::page(&host.board, host.stuck_after)).into_response()
}

async fn status_of_host(State(host): State<Arc<Host>>) -> Response {
    document(StatusCode::OK, &status::of_host(&host.board, host.stuck_after))
}

async fn deployments(State(host): State<Arc<Host>>) -> Response {
    answer(host, |host| Ok((StatusCode::OK, order::deployments(&host.config)?))).await
}

async fn deploy(
    State(host): State<Arc<Host>>,
    Extension(peer): Extension<Peer>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Response {
    let mut wanted = match wanted {
        Ok(Json(wanted)) => wanted,
        Err(rejection) => return refused(&rejection),
    };
    wanted.by = authenticated(&host, wanted.by.as_ref(), &peer);
    let author = Author { by: wanted.by.clone(), reason: wanted.reason.clone() };
    let response = answer(host, |host| {
        let dry_run = wanted.dry_run;
        let ordered = order::deploy(&host.config, &wanted.request(host)?)?;
        let done = ordered.order.is_some() || dry_run && first_refused(&ordered.checks).is_none();
        let answer = Answer::of(&ordered);
        tracing::info!(event = "admin-request", order = answer.order, "admin request received");
        Ok((if done { StatusCode::OK } else { StatusCode::CONFLICT }, answer))
    })
    .await;
    told(response, &author)
}

async fn withdraw(
    State(host): State<Arc<Host>>,
    Extension(peer): Extension<Peer>,
    wanted: Result<Json<Withdrawal>, JsonRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Json(wanted)) => wanted,
        Err(rejection) => return refused(&rejection),
    };
    let author = Author { by: authenticated(&host, wanted.by.as_ref(), &peer), reason: wanted.reason };
    let named = author.clone();
    let response = answer(host, move |host| {
        Ok((StatusCode::OK, json!({"withdrawn": order::withdraw(&host.config, wanted.n, &named)?})))
    })
    .await;
    told(response, &author)
}

async fn shadow_report(State(host): State<Arc<Host>>) -> Response {
    answer(host, |host| {
        let (shadow, report) = order::shadow(&host.config)?;
        Ok((StatusCode::OK, ShadowAnswer { shadow, report }))
    })
    .await
}

async fn drop_shadow(State(host): State<Arc<Host>>) -> Response {
    answer(host, |host| Ok((StatusCode::OK, json!({"dropped": order::drop_shadow(&host.config)?.id})))).await
}

impl Wanted {
    fn request(self, host: &Host) -> Result<order::Request, Failure> {
        let bad = |message: String| Failure::new(Exit::Config, message);
        let plugin = match (self.plugin_base64, self.plugin) {
            (Some(_), Some(_)) => return Err(bad("plugin and plugin_base64 are both given; give one of them".into())),
            (Some(text), None) => {
                let bytes = STANDARD.decode(text).map_err(|e| bad(format!("plugin_base64 is not base64: {e}")))?;
                Some(PluginFile::Bytes(bytes))
            }
            (None, Some(name)) if name.starts_with("builtin:") => Some(PluginFile::Named(name)),
            (None, Some(_)) => {
                return Err(bad(
                    "plugin names a file, which the host does not read; send its bytes as plugin_base64".into()
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
                let with = config::load(file, config::environment().chain(variables))?;
                Some((keys, with))
            }
            None => return Err(bad("set needs a configuration file, and this host was started without one".into())),
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
            is_held: true,
            author: Author { by: self.by, reason: self.reason },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered_on_loopback() {
        for name in ["localhost", "LOCALHOST:9640", "127.0.0.1:9640", "127.8.0.1", "[::1]:9640", "[::1]"] {
            assert!(is_this_machine(name), "{name}");
        }
        for name in
            ["example.org", "example.org:9640", "127.0.0.1.example.org", "10.0.0.1:9640", "localhost.example.org", ""]
        {
            assert!(!is_this_machine(name), "{name}");
        }
    }
}
