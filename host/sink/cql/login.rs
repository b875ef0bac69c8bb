//! Credentials and certificates of a CQL database while a host runs. The password's file is read for each connection. The driver takes files
//! of TLS only with a new session, so a changed one has the sink connect anew.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use scylla::authentication::{AuthError, AuthenticatorProvider, AuthenticatorSession, PlainTextAuthenticator};

use crate::backoff::Backoff;
use crate::clock;
use crate::config::CqlTls;
use crate::failure::Exit;
use crate::sink::cql::Cql;
use crate::sink::cql::session::connect;
use crate::watched::{Watched, read_secret};

/// How often the files of TLS are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a new session that did not come about because of the database.
const PAUSE: Duration = Duration::from_secs(10);

/// User and password, as of now.
#[derive(Debug)]
pub(super) struct Login {
    user: String,
    password: Mutex<String>,
    file: Option<PathBuf>,
}

impl Login {
    pub(super) fn new(user: &str, password: &str, file: Option<&Path>) -> Login {
        Login { user: user.to_owned(), password: Mutex::new(password.to_owned()), file: file.map(Path::to_owned) }
    }

    /// The password in the file; the former one while the file cannot be read.
    fn password(&self) -> String {
        let mut current = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        match self.file.as_deref().map(read_secret) {
            Some(Ok(password)) if password != *current => {
                tracing::info!(event = "password-read", "sink.cql.password has changed; new connections use it");
                *current = password;
            }
            Some(Err(why)) => {
                tracing::warn!(event = "password-refused", why, "sink.cql.password: keeping the former password");
            }
            Some(Ok(_)) | None => {}
        }
        current.clone()
    }
}

#[async_trait::async_trait]
impl AuthenticatorProvider for Login {
    async fn start_authentication_session(
        &self,
        authenticator: &str,
    ) -> Result<(Option<Vec<u8>>, Box<dyn AuthenticatorSession>), AuthError> {
        let plain = PlainTextAuthenticator::new(self.user.clone(), self.password());
        plain.start_authentication_session(authenticator).await
    }
}

/// The files of TLS, as the present session read them.
#[derive(Debug)]
pub(super) struct Certificates {
    files: Vec<Watched>,
    looked: Option<Instant>,
    /// When to connect anew, if the files have changed.
    due: Option<Instant>,
}

impl Certificates {
    pub(super) fn new(tls: Option<&CqlTls>) -> Certificates {
        let own = tls.and_then(|tls| tls.certificate.as_ref()).map(|(certificate, key)| [certificate, key]);
        let files = tls.and_then(|tls| tls.ca.as_ref()).into_iter().chain(own.into_iter().flatten());
        Certificates { files: files.map(|path| Watched::seen(path)).collect(), looked: None, due: None }
    }

    /// Whether it is time to connect with files that have changed.
    fn are_due(&mut self) -> bool {
        let now = clock::instant();
        if self.looked.is_none_or(|at| clock::since(at) >= INTERVAL) {
            self.looked = Some(now);
            // Each is asked, so that each change is seen once.
            let changed = self.files.iter_mut().map(Watched::has_changed).filter(|has_changed| *has_changed).count();
            if changed > 0 {
                self.due = Some(now);
            }
        }
        self.due.is_some_and(|due| due <= now)
    }
}

impl Cql {
    /// Connects anew if files of TLS have changed. If that fails, the present session is kept: files that do not fit together may be about to
    /// be replaced, so their next change is another try; a database that does not answer is tried again later.
    pub(super) fn renew(&mut self) {
        if !self.certificates.are_due() {
            return;
        }
        match connect(&self.config, &self.runtime, None, &mut Backoff::new("cql")) {
            Ok(session) => {
                self.session = session;
                self.certificates.due = None;
                tracing::info!(event = "cql-certificate-read", "files of sink.cql.tls have changed; connected anew");
            }
            Err(failure) => {
                self.certificates.due = (failure.exit != Exit::Config).then(|| clock::instant() + PAUSE);
                let why = failure.message;
                tracing::warn!(
                    event = "cql-certificate-refused",
                    why,
                    "files of sink.cql.tls have changed; keeping the present connections"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_the_password_that_the_file_holds_and_the_last_one_while_it_holds_none() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "first\n").expect("writable");
        let login = Login::new("fold", "first", Some(file.path()));
        let write = |text: &str| std::fs::write(file.path(), text).expect("writable");
        let mut seen = vec![login.password()];
        for text in ["second\n", "", "third"] {
            write(text);
            seen.push(login.password());
        }
        assert_eq!(seen, ["first", "second", "second", "third"]);
        assert_eq!(Login::new("fold", "kept", None).password(), "kept");
    }
}
