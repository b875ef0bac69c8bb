//! The author of the configuration: what would run code without saying so is refused, and what is secret stays secret.

use super::{assert_calm, events, hostile, pipeline};
use crate::support::generate::write_records;
use crate::support::host::Pipeline;
use crate::support::rows::from_ndjson;
use crate::support::settings::{ADMIN, Settings};

use serde_json::json;

#[test]
fn properties_by_which_librdkafka_runs_code_are_refused_by_name() {
    let kafka = Settings::default().over_kafka("127.0.0.1:1", "t").to_toml();
    for property in
        ["plugin.library.paths", "ssl.engine.location", "ssl.engine.id", "ssl.providers", "sasl.kerberos.kinit.cmd"]
    {
        let with = kafka.replace("topic = \"t\"", &format!("topic = \"t\"\nproperties = {{ \"{property}\" = \"x\" }}"));
        let pipeline = Pipeline::new(&with);
        for command in ["check", "run", "doctor"] {
            let outcome = pipeline.call(command, &[]);
            outcome.expect_code(2).expect_said(&[property, "is refused"]);
            assert_calm(&outcome);
        }
        let pipeline = Pipeline::new(&kafka);
        let mut command = pipeline.command("check", &[]);
        let name = property.replace('.', "__").to_uppercase();
        command.env(format!("KEYFOLD_SOURCE__KAFKA__PROPERTIES__{name}"), "x");
        pipeline.start(command).wait(crate::support::host::PATIENCE).expect_code(2).expect_said(&["is refused"]);
    }
}

#[test]
fn secrets_stand_in_no_output_and_no_file() {
    const SECRET: &str = "S3cr3t-of-twenty-four-bytes";
    let kafka = Settings::default().over_kafka("127.0.0.1:1", "t").to_toml();
    let properties = format!(
        "topic = \"t\"\nproperties = {{ \"sasl.password\" = \"{SECRET}\", \"ssl.key.password\" = \"{SECRET}\" }}\nstartup = 1"
    );
    let in_properties = kafka.replace("topic = \"t\"", &properties);
    let of_admin = format!(
        "{}{ADMIN}token = \"{SECRET}\"\nread_token = \"{SECRET}-2\"\n",
        hostile(&json!({"mode": "ok"})).to_toml()
    );
    // A mistake beside each, and none.
    for toml in [in_properties, format!("{of_admin}tokn = 1\n"), of_admin] {
        let pipeline = Pipeline::new(&toml);
        write_records(&pipeline.path("log.ndjson"), &events(["a", "b"]));
        for (command, more) in [
            ("check", &[][..]),
            ("run", &["--until-end"]),
            ("doctor", &[]),
            ("status", &[]),
            ("deployment list", &["--output", "json"]),
        ] {
            let mut process = pipeline.command(command, more);
            process.env("KEYFOLD_LOG", "debug");
            let outcome = pipeline.start(process).wait(crate::support::host::PATIENCE);
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(!said.contains(SECRET), "{command}: {said}");
        }
        let mut folders = vec![pipeline.path(".")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("readable").flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path if path.ends_with("keyfold.toml") => {}
                    path => {
                        let bytes = std::fs::read(&path).expect("readable");
                        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
                        assert!(!found, "{} has the secret", path.display());
                    }
                }
            }
        }
    }
}

#[test]
fn a_configuration_is_refused_and_not_obeyed_when_it_speaks_to_the_terminal() {
    let pipeline = pipeline(&Settings::default(), &[]);
    let toml = Settings::default().to_toml();
    for to in ["\\u001b[2Jx", "\\u202ex", "\\u009b31mx"] {
        pipeline.configure(&toml.replace("name = \"under-test\"", &format!("name = \"{to}\"")));
        let outcome = pipeline.call("check", &[]);
        outcome.expect_code(2);
        assert!(!super::record::obeyed(&format!("{}{}", outcome.stdout, outcome.stderr)), "{to}");
    }
    assert!(from_ndjson(&pipeline.path("rows.ndjson")).is_empty());
}
