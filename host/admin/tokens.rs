//! The tokens of the admin API, and what each allows. Those that come from files are read again once a file has changed.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::config::{Admin, LEAST_TOKEN};
use crate::watched::{Watched, read_secret};

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Looking at everything.
    Read,
    /// Changing too.
    Deploy,
}

/// SHA-256 of a token: comparing digests reveals nothing about the token by the time it takes.
type Secret = [u8; 32];

/// All tokens that count.
pub(super) struct Tokens {
    /// Whether other machines can connect, so that a token must be hard to guess.
    is_exposed: bool,
    known: Mutex<Vec<Token>>,
    /// Whether there are none, and never will be.
    pub(super) are_none: bool,
}

struct Token {
    key: &'static str,
    role: Role,
    secret: Secret,
    file: Option<Watched>,
}

impl Tokens {
    pub(super) fn new(admin: &Admin) -> Tokens {
        let tokens = [
            ("admin.token", Role::Deploy, &admin.token, &admin.token_file),
            ("admin.read_token", Role::Read, &admin.read_token, &admin.read_token_file),
        ];
        let known: Vec<Token> = tokens
            .into_iter()
            .filter_map(|(key, role, token, file)| {
                let secret = Sha256::digest(token.as_ref()?).into();
                Some(Token { key, role, secret, file: file.as_deref().map(Watched::unseen) })
            })
            .collect();
        Tokens { is_exposed: admin.listen.is_exposed(), are_none: known.is_empty(), known: Mutex::new(known) }
    }

    /// What this token allows; nothing if it is none of them.
    pub(super) fn role(&self, given: &str) -> Option<Role> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for at in 0..known.len() {
            self.look(&mut known, at);
        }
        let given = Sha256::digest(given);
        known.iter().find(|token| given[..] == token.secret[..]).map(|token| token.role)
    }

    /// Takes the token that a changed file holds, if a configuration could hold it.
    fn look(&self, known: &mut [Token], at: usize) {
        let Some(file) = known[at].file.as_mut() else { return };
        if !file.has_changed() {
            return;
        }
        let taken = read_secret(file.path()).and_then(|text| {
            let secret: Secret = Sha256::digest(&text).into();
            let is_shared = known.iter().enumerate().any(|(other, token)| other != at && token.secret == secret);
            if is_shared {
                return Err("it is the same as the other token".to_owned());
            }
            if self.is_exposed && text.len() < LEAST_TOKEN {
                return Err(format!("it has fewer than {LEAST_TOKEN} characters"));
            }
            Ok(secret)
        });
        let key = known[at].key;
        match taken {
            Ok(secret) if secret != known[at].secret => {
                known[at].secret = secret;
                tracing::info!(event = "admin-token-read", key, "a token of the admin API has changed");
            }
            Ok(_) => {}
            Err(why) => tracing::warn!(event = "admin-token-kept", key, why, "keeping the former token"),
        }
    }
}
