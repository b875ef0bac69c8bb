//! Connections of the admin API, and of the probes' own address: how many there may be, and which one gives way to the next. Knows nothing of what is asked.
//!
//! Whoever can reach the port can open connections and send nothing, so their number is limited, far below the file descriptors that a process
//! usually has. A new connection takes the place of the oldest one that is not being answered. A probe asks as soon as it is connected, so it
//! is answered however many others wait. The handshake of TLS is part of a connection: others are accepted meanwhile, and it counts.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::listener::{Listener, Stream};
use super::tls::{self, Tls};

/// How long the head of a request may take, from the connection or the last answer on.
const HEAD: Duration = Duration::from_secs(30);
/// Limit of what is kept of a request before its body, bytes.
const HEAD_BYTES: usize = 64 << 10;
/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Who the other side is, as far as the connection tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// The name in its certificate, or the user at a Unix socket.
    pub(super) name: Option<String>,
    /// Its address, but for a Unix socket.
    pub(super) address: Option<IpAddr>,
}

struct Connection {
    /// Whether a request is being answered.
    is_answering: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// Serves `routes` on at most so many connections at once, until the runtime ends.
pub(super) async fn serve(listener: Listener, tls: Option<Arc<Tls>>, most: usize, routes: Router) {
    let mut open = VecDeque::new();
    let mut has_failed = false;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                has_failed = false;
                if make_room(&mut open, most) {
                    open.push_back(connect(stream, tls.clone(), &routes));
                    tokio::task::yield_now().await; // what it has asked already is read before the next one is let in
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(event = "admin-api-refusing", %error, "cannot accept a connection to the admin API; retrying");
                }
                make_room(&mut open, most);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Closes the oldest connection that is not being answered, if there are too many; false if there is none such.
fn make_room(open: &mut VecDeque<Connection>, most: usize) -> bool {
    open.retain(|connection| !connection.task.is_finished());
    if open.len() < most {
        return true;
    }
    let idle = open.iter().position(|connection| !connection.is_answering.load(Ordering::Relaxed));
    let closed = idle.and_then(|at| open.remove(at));
    closed.iter().for_each(|connection| connection.task.abort());
    closed.is_some()
}

fn connect(stream: Stream, tls: Option<Arc<Tls>>, routes: &Router) -> Connection {
    let is_answering = Arc::new(AtomicBool::new(false));
    let routes = routes.clone().layer(from_fn_with_state(Arc::clone(&is_answering), note));
    let task = tokio::spawn(async move {
        let (stream, tls) = match (stream, tls) {
            (Stream::Unix(stream), _) => {
                let name = stream.peer_cred().ok().map(|user| format!("uid {}", user.uid()));
                return answer(stream, Peer { name, address: None }, routes).await;
            }
            (Stream::Tcp(stream), tls) => (stream, tls),
        };
        let address = stream.peer_addr().ok().map(|peer| peer.ip());
        let Some(tls) = tls else { return answer(stream, Peer { name: None, address }, routes).await };
        // A client that fails here went away, is not trusted, or does not speak TLS.
        let Ok(Some(stream)) = tokio::time::timeout(HEAD, tls.accept(stream)).await else { return };
        let name = stream.ssl().peer_certificate().map(|certificate| tls::name(&certificate));
        answer(stream, Peer { name, address }, routes).await;
    });
    Connection { is_answering, task }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer, routes: Router) {
    let routes = routes.layer(Extension(peer));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    // An error is the client's: it went away, or does not speak HTTP.
    let _ = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}

async fn note(State(is_answering): State<Arc<AtomicBool>>, request: Request, next: Next) -> Response {
    is_answering.store(true, Ordering::Relaxed);
    let response = next.run(request).await;
    is_answering.store(false, Ordering::Relaxed);
    response
}
