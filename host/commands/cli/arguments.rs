//! Options that several commands share, and the parsers of their values.

#![allow(rustdoc::broken_intra_doc_links, reason = "clap shows these comments as help, where brackets are text")]

use std::path::PathBuf;

use clap::Args;

use crate::commands::client::{Client, TlsFiles};
use crate::config::{self, Config};
use crate::deployment::Author;
use crate::failure::Failure;
use crate::strike::Stage;

/// The configuration that a command works with.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// The configuration file [default: $KEYFOLD_CONFIG, or keyfold.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl ConfigFile {
    /// Returns the file named by -c, by `KEYFOLD_CONFIG`, or by default.
    pub fn path(&self) -> PathBuf {
        let variable = || std::env::var_os("KEYFOLD_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        self.file.clone().or_else(variable).unwrap_or_else(|| PathBuf::from("keyfold.toml"))
    }

    /// Loads the configuration with the variables of the environment.
    pub fn load(&self) -> Result<Config, Failure> {
        config::load(&self.path(), config::environment())
    }
}

/// The pipeline that a command works on, by its configuration or by a host's admin API.
#[derive(Args, Debug)]
pub struct Target {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Ask the host with this admin API, such as `https://host.example:9640` or `unix:/run/keyfold/admin.sock`, instead of opening the state store.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// File that holds the admin API's token.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that sign the host's certificate [default: $SSL_CERT_FILE and $SSL_CERT_DIR, or the system's]
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub admin_ca: Option<PathBuf>,
    /// PEM file of this client's certificate, if the host requires one.
    #[arg(long, value_name = "FILE", requires_all = ["admin", "admin_key"])]
    pub admin_certificate: Option<PathBuf>,
    /// PEM file of the certificate's key.
    #[arg(long, value_name = "FILE", requires = "admin_certificate")]
    pub admin_key: Option<PathBuf>,
}

impl Target {
    /// Returns a client of the admin API if --admin was given.
    pub fn remote(&self) -> Result<Option<Client>, Failure> {
        let files = TlsFiles {
            ca: self.admin_ca.as_deref(),
            certificate: self.admin_certificate.as_deref(),
            key: self.admin_key.as_deref(),
        };
        self.admin.as_ref().map(|url| Client::new(url, self.token_file.as_ref(), files)).transpose()
    }
}

/// The author of an order, and the reason.
#[derive(Args, Debug)]
pub struct AuthorArguments {
    /// The reason, recorded in the journal.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The author, recorded in the journal [default: $USER]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

impl AuthorArguments {
    /// Returns what the journal records.
    pub fn into_author(self) -> Author {
        Author { by: self.by.or_else(|| std::env::var("USER").ok()), reason: self.reason }
    }
}

/// Parses the name of a stage.
pub(super) fn stage(text: &str) -> Result<Stage, String> {
    let known = || Stage::ALL.map(Stage::name).join(", ");
    Stage::named(text).ok_or_else(|| format!("not a stage; the stages are {}", known()))
}

/// Parses KEY=VALUE.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// Parses a point in time, ms since 1970.
pub(super) fn instant(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time: jiff::Timestamp =
        text.parse().map_err(|e| format!("neither milliseconds since 1970 nor an RFC 3339 time: {e}"))?;
    Ok(time.as_millisecond())
}

/// Parses a JSON value.
pub(crate) fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))
}
