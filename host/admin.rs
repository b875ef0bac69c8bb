//! The admin API: status, probes, metrics and deployments of a host over HTTP, in JSON. Use it if you cannot reach the state store.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /v1/deployments` | lists deployments |
//! | `POST /v1/deployments` | orders a deployment ([`Wanted`]) or a shadow, or promotes the shadow |
//! | `POST /v1/withdraw` | withdraws a deployment ([`Withdrawal`]) |
//! | `GET /v1/shadow` | returns the shadow's report |
//! | `DELETE /v1/shadow` | ends the shadow |
//! | `GET /v1/status` | returns the host's status ([`Status`](crate::observe::status::Status)) |
//! | `GET /metrics` | returns metrics for Prometheus |
//! | `GET /livez`, `/readyz`, `/startupz` | returns 200 or 503, with the reason |
//!
//! The server has a runtime of its own and a limited number of connections, so nobody who can reach the port can keep a host from folding.
//!
//! Probes and metrics need no token: they contain no record, key or configuration. `admin.probes` answers them, and nothing else, at an address of
//! their own: over plain HTTP, with connections and a thread that the admin API cannot use up. They and the status are available as soon as the host
//! starts; the other routes return 503 until startup is complete.
//!
//! Requests that change something need the bearer token `admin.token`. If a token is configured, reading needs it too, or `admin.read_token`,
//! which changes nothing (403); without a token the API is read-only. An address that sends wrong tokens is
//! refused for a while (429), before its next one is compared. What changes something is noted in `admin.audit_log`, if that is set, and
//! the journal's `by` says how the author was authenticated, beside the name that they claim. With `[admin.tls]` the API speaks HTTPS only; with
//! `admin.tls.client_ca` every client needs a certificate, beside the token. A Unix socket is for the host's own user: without a token, it allows
//! changes. A refused deployment is status 409 with its checks; a failure has a
//! status that follows from its exit code, and the body `{"error": ..., "exit": ...}`.

mod audit;
mod connections;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod listener;
mod server;
mod throttle;
mod tls;
mod tokens;
mod wire;

pub(crate) use server::check;
pub use server::{Server, serve};
pub(crate) use wire::STATUS;
pub use wire::{Answer, Line, ShadowAnswer, Wanted, Withdrawal};
