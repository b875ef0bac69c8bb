//! Failures, exit codes and the results of checks.

use std::fmt;

use crate::symptom::Symptom;

/// Why a command failed; the numbers are the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An internal error: a bug in keyfold.
    Unexpected = 1,
    /// The command line or the configuration is invalid.
    Config = 2,
    /// An external system is unavailable or refused: broker, topic, credentials, keyspace, table.
    Outside = 3,
    /// The plugin was rejected, hit a limit with `on_strike = "halt"`, or failed its audit.
    Plugin = 4,
    /// The stored state rules it out: fenced, log trimmed, different source, newer format.
    State = 5,
}

impl Exit {
    /// Returns the exit with this code; an unknown code is an internal error.
    pub(crate) fn of_code(code: u8) -> Exit {
        let all = [Exit::Config, Exit::Outside, Exit::Plugin, Exit::State];
        all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Unexpected)
    }
}

/// A failure that ends a command, with its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// `what failed: why; what to do`, in lower case without a full stop.
    pub message: String,
    /// Whether it is that another host has taken over a lane. The host's other lanes are not concerned.
    pub is_fenced: bool,
}

/// Why a lane cannot be used any more, and what to do.
pub(crate) const TAKEN_OVER: &str = "another host has taken over this lane; run one host per pipeline, or let them share it with \
                                     source.kafka.hosts = \"many\"";

impl Failure {
    /// Creates a failure.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), is_fenced: false }
    }

    /// Another host has taken over a lane.
    pub fn fenced(message: impl Into<String>) -> Failure {
        Failure { is_fenced: true, ..Failure::state(message) }
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

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing is wrong.
    Fine,
    /// It works, but an operator should know.
    Warning,
    /// A run would fail with this exit code.
    Refused(Exit),
}

/// One check and its result: a line of `keyfold check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked: `config`, `plugin`, `topic visits`, `table ndc_porto.sessions`, `state`.
    pub subject: String,
    /// The result.
    pub finding: Finding,
    /// What was found, and what to do if a person must act.
    pub detail: String,
    /// The named problem, if it has a name.
    pub symptom: Option<Symptom>,
    /// What was counted, for programs.
    pub figures: Option<Box<serde_json::Value>>,
}

impl Check {
    /// Creates a check without problems.
    pub fn fine(subject: impl Into<String>, detail: impl Into<String>) -> Check {
        Check { subject: subject.into(), finding: Finding::Fine, detail: detail.into(), symptom: None, figures: None }
    }

    /// Creates a check that works but that an operator should know about.
    pub fn warning(subject: impl Into<String>, detail: impl Into<String>) -> Check {
        Check {
            subject: subject.into(),
            finding: Finding::Warning,
            detail: detail.into(),
            symptom: None,
            figures: None,
        }
    }

    /// Creates a check that a run would fail on.
    pub fn refused(subject: impl Into<String>, failure: Failure) -> Check {
        let finding = Finding::Refused(failure.exit);
        Check { subject: subject.into(), finding, detail: failure.message, symptom: None, figures: None }
    }

    /// Names the problem, unless there is none or it has a name.
    pub fn of(self, symptom: Symptom) -> Check {
        let named = self.symptom.or((self.finding != Finding::Fine).then_some(symptom));
        Check { symptom: named, ..self }
    }

    /// Adds what was counted.
    pub fn with(self, figures: serde_json::Value) -> Check {
        Check { figures: Some(Box::new(figures)), ..self }
    }
}

/// Returns the first refused check with its exit code.
pub fn first_refused(checks: &[Check]) -> Option<(Exit, &Check)> {
    checks.iter().find_map(|check| match check.finding {
        Finding::Refused(exit) => Some((exit, check)),
        Finding::Fine | Finding::Warning => None,
    })
}

/// Fails with the first refused check, in its words.
pub fn refuse(checks: &[Check]) -> Result<(), Failure> {
    first_refused(checks).map_or(Ok(()), |(exit, check)| Err(Failure::new(exit, &*check.detail)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refused_check_decides() {
        let checks = [
            Check::fine("config", "keyfold.toml"),
            Check::warning("topic visits", "one partition"),
            Check::refused("table a.b", Failure::new(Exit::Outside, "missing")),
            Check::refused("state", Failure::new(Exit::State, "newer format")),
        ];
        assert_eq!(first_refused(&checks), Some((Exit::Outside, &checks[2])));
        assert_eq!(first_refused(&checks[..2]), None);
    }

    #[test]
    fn exit_codes_are_read_back() {
        for exit in [Exit::Unexpected, Exit::Config, Exit::Outside, Exit::Plugin, Exit::State] {
            assert_eq!(Exit::of_code(exit as u8), exit);
        }
        assert_eq!(Exit::of_code(77), Exit::Unexpected);
    }
}
