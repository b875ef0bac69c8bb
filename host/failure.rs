//! What a failure means to whoever started the program. Owns the exit codes, and nothing else.

use std::fmt;

use crate::symptom::Symptom;

/// Why the program stops; the numbers are its exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A bug, or a failure that nobody foresaw.
    Unexpected = 1,
    /// The command line or the configuration is wrong.
    Config = 2,
    /// Something outside is missing or refuses: broker, topic, credentials, keyspace, table.
    Outside = 3,
    /// The plugin is refused, struck under `on_strike = "halt"`, or was found by its audit to break the law.
    Plugin = 4,
    /// The state does not allow it: fenced, trimmed log, other source, newer format.
    State = 5,
}

/// A failure that ends a command: what, where and what to do, in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// Lower case, no full stop; names what, where and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with this meaning.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// The configuration, or the command line, asks for what cannot be.
    pub fn config(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Config, message)
    }

    /// Something outside is missing, refuses, or does not fit.
    pub fn outside(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Outside, message)
    }

    /// The plugin is refused, or is at fault.
    pub fn plugin(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Plugin, message)
    }

    /// The pipeline's state does not allow it.
    pub fn state(message: impl Into<String>) -> Failure {
        Failure::new(Exit::State, message)
    }

    /// An internal error.
    pub fn unexpected(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Unexpected, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// How one thing that was looked at before a run turned out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Fine,
    /// Works, but somebody should know.
    Warning,
    /// A run would be refused, with this exit code.
    Refused(Exit),
}

/// One line of `keyfold check`; the start of `keyfold run` fails with the first refused one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: `config`, `plugin`, `topic visits`, `table ndc_porto.sessions`, `state`.
    pub subject: String,
    /// How it turned out.
    pub finding: Finding,
    /// What was found, and what to do where a person must act.
    pub detail: String,
    /// What is wrong, where it has a name.
    pub symptom: Option<Symptom>,
}

impl Check {
    /// All is well with `subject`.
    pub fn fine(subject: impl Into<String>, detail: impl Into<String>) -> Check {
        Check { subject: subject.into(), finding: Finding::Fine, detail: detail.into(), symptom: None }
    }

    /// Works, but somebody should know.
    pub fn warning(subject: impl Into<String>, detail: impl Into<String>) -> Check {
        Check { subject: subject.into(), finding: Finding::Warning, detail: detail.into(), symptom: None }
    }

    /// A run would be refused.
    pub fn refused(subject: impl Into<String>, failure: Failure) -> Check {
        let finding = Finding::Refused(failure.exit);
        Check { subject: subject.into(), finding, detail: failure.message, symptom: None }
    }

    /// The same by this name, unless it has one or all is well.
    pub fn of(self, symptom: Symptom) -> Check {
        let named = self.symptom.or((self.finding != Finding::Fine).then_some(symptom));
        Check { symptom: named, ..self }
    }
}

/// Returns the failure of the first refused check: what a start fails with that made these checks.
pub fn first_refused(checks: &[Check]) -> Result<(), Failure> {
    let refused = checks.iter().find_map(|check| match check.finding {
        Finding::Refused(exit) => Some(Failure::new(exit, &*check.detail)),
        Finding::Fine | Finding::Warning => None,
    });
    refused.map_or(Ok(()), Err)
}
