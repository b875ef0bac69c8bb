//! Secrets of a client's properties while it runs. A password that comes from a file is read again once the file has changed. librdkafka reads
//! certificates, keys and their passwords only when a client is made, so a change of those is told, and takes effect with the next start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rdkafka::client::{Client, ClientContext};

use crate::clock;
use crate::source::kafka::native::set_credentials;
use crate::watched::{Watched, read_secret};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// The property that a running client can be given again.
const PASSWORD: &str = "sasl.password";

/// Returns the properties with secrets as their files hold them now: a host may make a client long after its configuration was read.
pub fn fresh(properties: &BTreeMap<String, String>, files: &BTreeMap<String, PathBuf>) -> BTreeMap<String, String> {
    let mut properties = properties.clone();
    let read = files.iter().filter_map(|(name, file)| Some((name.clone(), read_secret(file).ok()?)));
    properties.extend(read);
    properties
}

/// The files behind the properties of one client.
pub struct Secrets {
    section: &'static str,
    user: String,
    password: Option<(String, Watched)>,
    /// Files that only a start reads, by property.
    fixed: Vec<(String, Watched)>,
    looked: Option<Instant>,
}

impl Secrets {
    /// Those of these properties; `files` has the files that secrets came from. A client of several that share its files tells of those that
    /// only a start reads: the one that is `telling`.
    pub fn new(
        section: &'static str,
        properties: &BTreeMap<String, String>,
        files: &BTreeMap<String, PathBuf>,
        telling: bool,
    ) -> Secrets {
        let of = |name: &str| properties.get(name).cloned().unwrap_or_default();
        // It may have changed since the configuration was read.
        let password = files.get(PASSWORD).map(|path| (of(PASSWORD), Watched::unseen(path)));
        let is_location = |name: &str| name.starts_with("ssl.") && name.ends_with(".location");
        let locations =
            properties.iter().filter(|(name, _)| is_location(name)).map(|(name, path)| (name, Path::new(path)));
        let secrets = files.iter().filter(|(name, _)| *name != PASSWORD).map(|(name, path)| (name, path.as_path()));
        let fixed = locations.chain(secrets).filter(|_| telling);
        let fixed = fixed.map(|(name, path)| (name.clone(), Watched::seen(path))).collect();
        Secrets { section, user: of("sasl.username"), password, fixed, looked: None }
    }

    /// Looks at the files, if it is time to. A changed password is what the client authenticates with from its next connection on.
    pub fn look(&mut self, client: &Client<impl ClientContext>) {
        if self.looked.is_some_and(|at| clock::since(at) < INTERVAL) {
            return;
        }
        self.looked = Some(clock::instant());
        let section = self.section;
        for (name, file) in &mut self.fixed {
            if file.has_changed() {
                let (path, name) = (file.path().display(), name.as_str());
                tracing::warn!(
                    event = "kafka-file-changed",
                    %path,
                    "{section}.{name}: the file has changed, but librdkafka reads it only at a start; restart this host before the former one expires"
                );
            }
        }
        if let Some((current, file)) = &mut self.password
            && file.has_changed()
        {
            let path = file.path().display();
            let taken = read_secret(file.path()).and_then(|password| {
                let is_other = password != *current;
                if is_other {
                    set_credentials(client, &self.user, &password)?;
                    *current = password;
                }
                Ok(is_other)
            });
            match taken {
                Ok(true) => {
                    tracing::info!(event = "password-read", %path, "{section}.{PASSWORD} has changed; new connections use it")
                }
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(event = "password-refused", why, "{section}.{PASSWORD}: keeping the former password")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_made_later_gets_the_secret_of_then_and_the_former_one_where_there_is_none() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let properties = BTreeMap::from([one(PASSWORD, "first"), one("ssl.key.password", "kept"), one("a", "b")]);
        let files = BTreeMap::from([
            (PASSWORD.to_owned(), file.path().to_owned()),
            ("ssl.key.password".to_owned(), file.path().join("missing")),
        ]);
        std::fs::write(file.path(), "second\n").expect("writable");
        let now = fresh(&properties, &files);
        assert_eq!(now, BTreeMap::from([one(PASSWORD, "second"), one("ssl.key.password", "kept"), one("a", "b")]));
    }
}
