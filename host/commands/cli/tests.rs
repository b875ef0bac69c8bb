use super::*;
use crate::failure::Exit;

use std::path::Path;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::config::Component;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split_whitespace())
}

#[test]
fn the_arguments_are_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn run_takes_a_file_and_an_end() {
    let arguments = parse("keyfold run -c a.toml --until-end --log-format json").expect("the line is right");
    assert_eq!(arguments.log_format, Some(Format::Json));
    let Command::Run { config, until_end, .. } = arguments.command else { panic!("expected run") };
    assert!(until_end);
    assert_eq!(config.path(), Path::new("a.toml"));
}

#[test]
fn the_log_format_may_stand_before_the_command() {
    let arguments = parse("keyfold --log-format human demo --keep here").expect("the line is right");
    assert_eq!(arguments.log_format, Some(Format::Human));
    assert!(matches!(arguments.command, Command::Demo { keep: Some(keep) } if keep == Path::new("here")));
}

#[test]
fn health_is_asked_of_one_thing() {
    let command = parse("keyfold health --ready -c a.toml").expect("the line is right").command;
    assert!(matches!(command, Command::Health { ready: true, startup: false, .. }));
    assert_eq!(parse("keyfold health --ready --startup").expect_err("the line is wrong").exit_code(), 2);
    let command = parse("keyfold status --admin http://127.0.0.1:1 --output json").expect("the line is right").command;
    assert!(matches!(command, Command::Status { output: Output::Json, .. }));
}

#[test]
fn a_plugin_is_checked_with_json() {
    let arguments = parse("keyfold plugin check a.wasm --config {\"a\":1}").expect("the line is right");
    let Command::Plugin { command: PluginCommand::Check { file, config, output: Output::Text } } = arguments.command
    else {
        panic!("expected plugin check")
    };
    assert_eq!((file.as_path(), config), (Path::new("a.wasm"), serde_json::json!({"a": 1})));
    let error = parse("keyfold plugin check a.wasm --config {a").expect_err("that is not JSON");
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2));
}

#[test]
fn a_replay_takes_plugins_as_files_or_by_name() {
    let line =
        "keyfold replay -c a.toml --from old --plugin builtin:visits --against b.wasm --against-config {} --records 7";
    let Command::Replay { config, options, .. } = parse(line).expect("the line is right").command else {
        panic!("expected replay")
    };
    assert_eq!(config.path(), Path::new("a.toml"));
    assert_eq!(options.from.as_deref(), Some("old"));
    assert_eq!(options.plugin, Some(Component::Builtin("visits".to_owned())));
    assert_eq!(options.plugin_config, None);
    assert_eq!(options.against, Some(Component::File("b.wasm".into())));
    assert_eq!(options.against_config, Some(serde_json::json!({})));
    assert_eq!(options.records, Some(7));
    for wrong in ["keyfold replay --plugin-config {a", "keyfold replay --records -1"] {
        assert_eq!(parse(wrong).expect_err("the line is wrong").exit_code(), 2, "{wrong}");
    }
}

#[test]
fn wrong_lines_exit_with_2_and_help_with_0() {
    for line in
        ["keyfold", "keyfold rnu", "keyfold run --until-ends", "keyfold plugin check", "keyfold run --log-format xml"]
    {
        assert_eq!(parse(line).expect_err("the line is wrong").exit_code(), 2, "{line}");
    }
    for line in ["keyfold --help", "keyfold run --help", "keyfold --version"] {
        assert_eq!(parse(line).expect_err("help is no command").exit_code(), 0, "{line}");
    }
}

#[test]
fn help_tells_examples_exit_codes_and_environment() {
    let help = Arguments::command().render_long_help().to_string();
    for part in [
        "Examples:",
        "Exit codes:",
        "Environment:",
        "KEYFOLD_SOURCE__KAFKA__BROKERS",
        "The rows are a function of the log",
    ] {
        assert!(help.contains(part), "{part} is not in:\n{help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "a line is too wide:\n{help}");
    for exit in [Exit::Unexpected, Exit::Config, Exit::Outside, Exit::Plugin, Exit::State] {
        assert!(help.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
    }
}

#[test]
fn a_deployment_is_created_and_withdrawn() {
    let line = "keyfold deployment create a.wasm --set time.late=drop --at 1000 --reason because --output json";
    let command = parse(line).expect("the line is right").command;
    let Command::Deployment { command: DeploymentCommand::Create(create) } = command else { panic!("expected create") };
    assert_eq!((create.plugin.as_deref(), create.at, create.output), (Some("a.wasm"), Some(1000), Output::Json));
    assert_eq!(create.set, [("time.late".to_owned(), "drop".to_owned())]);
    let command = parse("keyfold deployment withdraw 3").expect("the line is right").command;
    assert!(matches!(command, Command::Deployment { command: DeploymentCommand::Withdraw { n: Some(3), .. } }));
    for former in ["deploy a.wasm", "deployments", "withdraw", "promote", "drop", "shadow", "status --json"] {
        assert_eq!(parse(&format!("keyfold {former}")).expect_err("the former grammar").exit_code(), 2, "{former}");
    }
    let both = "keyfold deployment create --shadow --at 1000";
    assert_eq!(parse(both).expect_err("a shadow has no instant").exit_code(), 2);
}

#[test]
fn every_command_that_prints_an_answer_takes_an_output_format() {
    // These print something else than an answer: logs, rows, a story, a schema, a script, a page, compiled code.
    let others = ["run", "demo", "schema", "completions", "man", "plugin run", "help", "judge-plugin"];
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, bool)>) {
        let mut below = command.get_subcommands().peekable();
        if below.peek().is_none() {
            found
                .push((path.to_owned(), command.get_arguments().any(|argument| argument.get_long() == Some("output"))));
        }
        below.for_each(|inner| leaves(inner, &format!("{path} {}", inner.get_name()), found));
    }
    let mut found = Vec::new();
    leaves(&Arguments::command(), "", &mut found);
    assert!(found.len() > 20, "{found:?}");
    for (path, has_output) in found {
        let path = path.trim_start();
        assert_eq!(has_output, !others.contains(&path), "--output of `keyfold {path}`");
    }
}
