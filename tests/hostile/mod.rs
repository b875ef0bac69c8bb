//! Attacks, by who makes them: the five people of the threat model in SECURITY.md. Each runs against the real program on its default
//! configuration, and asserts what it may cost: memory as the most that the host had (`VmHWM`; what compiles a plugin is a process with limits of
//! its own), bytes, counts. No test measures time. `cargo test --test hermetic -- hostile:: --nocapture` prints the figures.
//!
//! The last column is what was measured on 2026-11-29 on a busy machine of two cores, with a debug build. "Failed" are attacks that never
//! succeeded, and must go on failing.
//!
//! | attack | test | limit | measured |
//! |---|---|---|---|
//! | loops in `describe`, `configure` and a module's start (failed) | `plugin::loops_in_describe_configure_and_the_start_of_a_module_end_with_their_fuel` | refused, 600 MiB | 34 MiB, 3 to 5 s |
//! | several memories, 64 bits, threads, tables (failed, but several memories took a minute and an internal error) | `plugin::memories_and_tables_beyond_a_plugins_share_are_refused` | refused, 600 MiB | 34 MiB, 2 s |
//! | 2,000 locals in 200 loops | `plugin::compiling_a_plugin_ends_at_the_limit_of_time`, `plugin::compiling_a_plugin_ends_at_the_limit_of_memory` | `plugin.compile_time`, `plugin.compile_memory` | as configured |
//! | 200 MB of refusal, names of 50 MB, 20,000 tables | `plugin::texts_of_a_plugin_are_cut_however_long_they_are` | refused in 64 KiB, 600 MiB | 84 MiB, 7 s |
//! | a schema that doubles, ReDoS, a schema on another machine (the last two failed) | `plugin::a_schema_costs_the_host_little_and_reaches_no_other_machine` | refused, 600 MiB, no connection | 58 MiB, 4 s |
//! | SQL in names of tables and columns (failed) | `plugin::names_of_tables_and_columns_are_no_sql` | all rows in the named table | |
//! | CQL in names of keyspaces, tables and columns (failed) | `plugin::names_that_are_no_names_of_cql_are_refused_before_a_database_is_asked` | no database is asked, 600 MiB | 40 MiB |
//! | the same on a real database, in names that CQL can have | `injected::names_of_a_plugin_and_of_the_configuration_are_no_cql`, `injected::keyspaces_are_no_cql`, `injected::names_that_the_host_refuses_without_asking_are_refused_by_the_database_too` (in `tests/services`) | all rows under these names, nothing else changes | |
//! | a table of the host itself | `plugin::tables_of_the_host_itself_are_not_a_plugins` | refused | |
//! | a table that the operator did not allow | `refusals::a_plugin_that_writes_another_table_than_the_operator_allows_is_refused_at_the_start_and_before_t` | refused | |
//! | output of a trial | `contract::a_trial_ends_before_its_outputs_fill_the_memory_of_the_host` | bytes of a trial | |
//! | 40 MB records in some KB of gzip | `record::a_record_that_grows_beyond_the_limit_is_a_short_dead_letter_in_every_replay` | 64 KiB for each dead letter, 1,000 MiB | 111 MiB, 4 s |
//! | a line of 140 MiB | `record::a_line_longer_than_any_record_is_refused_by_its_number` | refused, 600 MiB | 175 MiB, 2 s |
//! | 200 MB of reasons from 20 records | `record::two_hundred_megabytes_of_reasons_are_a_few_kilobytes_of_dead_letters` | 200 KiB of dead letters, 1,500 MiB | 266 MiB, 2 s |
//! | 40 million empty list items from 20 records | `record::empty_list_items_count_as_state` | no state with `plugin.state_bytes` of 4 MiB, 1,500 MiB | 239 MiB, 2.4 s |
//! | keys without end | `record::keys_without_end_stop_the_host_at_the_limit_of_a_lane_and_cost_no_row` | exit code 5 at `state.lane_bytes`, all rows under a higher limit | |
//! | 20 MB of log lines from 20 records | `record::lines_that_a_plugin_logs_are_cut` | 512 KiB of logs | 73 MiB, 1 s |
//! | 80,000 keys prepared for the seed of an earlier version | `record::eighty_thousand_prepared_keys_are_folded_as_any_others`, and a unit test of `state` | all rows, 1,000 MiB | 107 MiB, 3 s |
//! | text that speaks to a terminal or forges a line | `record::text_of_records_and_people_never_speaks_to_the_terminal`, `configuration::a_configuration_is_refused_and_not_obeyed_when_it_speaks_to_the_terminal` | no such character in any output | |
//! | the same in what commands print, for people and for programs | `spoken::what_a_run_and_a_replay_say_of_a_record_is_text_in_every_format`, `spoken::what_commands_say_of_dead_letters_and_state_is_text_in_every_format`, `spoken::what_a_deployment_says_of_a_plugin_and_of_people_is_text_in_every_format`, `spoken::what_an_author_s_commands_say_of_a_plugin_is_text_in_every_format` | no such character, and the same document, 600 MiB | 81 MiB |
//! | the same in answers, probes and metrics, and labels in names | `spoken::what_a_host_answers_is_escaped_in_documents_probes_and_metrics` | no such character, and no other sample, 600 MiB | 79 MiB |
//! | 2,000 half-open connections at 1,024 files | `client::connections_that_never_finish_their_request_stop_neither_folding_nor_probes` | records are folded, probes answer, 600 MiB | 59 MiB |
//! | 2,000 half-open connections at the admin API, then at the probes' own address | `probes::a_flood_of_the_admin_api_leaves_the_probes_own_address_alone_and_the_other_way_round` | records are folded, the other address answers, 600 MiB | 62 MiB |
//! | anything but probes at the probes' own address (failed) | `probes::the_probes_own_address_answers_probes_and_metrics_and_nothing_else` | 404 | |
//! | wrong tokens, limits lifted with the right one | `client::who_may_deploy_lifts_no_limit_and_who_tries_tokens_fills_no_log`, `client::a_limit_that_the_operator_lowered_does_not_come_back_with_an_earlier_deployment`, `client::a_token_for_reading_changes_nothing_and_the_audit_log_names_each_change` | ten lines for a thousand wrong tokens | |
//! | a page in a browser | `client::a_host_on_loopback_answers_only_requests_for_this_machine` | 403 | |
//! | requests in requests (failed) | `client::no_request_is_hidden_in_another` | one answer for each connection | |
//! | paths and names that lead out of a folder (failed) | `client::names_lead_out_of_no_folder` | 400 to 499, nothing ordered | |
//! | 25 deployments at once (failed) | `client::twenty_five_deployments_at_once_are_twenty_five_numbers` | 25 numbers, none lost | |
//! | native code in the caches | `neighbour::native_code_of_others_is_not_run_wherever_it_lies`, `neighbour::compiled_plugins_are_kept_in_a_folder_of_the_user_alone_or_nowhere`, `neighbour::a_start_tells_of_a_poisoned_folder_of_compiled_plugins`, `contract::a_compiled_plugin_is_taken_only_under_its_own_name` | the same rows | |
//! | 120 random corruptions of state (failed) | `neighbour::a_hundred_and_twenty_random_corruptions_of_state_make_neither_a_panic_nor_a_wrong_row` | right rows, or a refusal that names the state | 98 survived |
//! | forged dead letters | `neighbour::forged_dead_letters_are_refused_by_their_line`, `neighbour::a_dead_letter_of_a_partition_that_is_not_there_is_skipped_and_the_others_are_sent` | refused by line, or skipped | |
//! | reading what the host keeps | `neighbour::what_the_host_keeps_is_for_its_user_and_rows_are_for_readers` | mode 0600 | |
//! | properties that load native code | `configuration::properties_by_which_librdkafka_runs_code_are_refused_by_name` | refused | |
//! | secrets in outputs and files | `configuration::secrets_stand_in_no_output_and_no_file` | in none | |

mod client;
mod configuration;
mod forge;
mod neighbour;
mod plugin;
mod probes;
mod record;
mod spoken;

use serde_json::{Value, json};

use crate::support::generate::{START_MS, TestRecord};
use crate::support::host::{Outcome, PATIENCE, Pipeline, Running, plugin_file};
use crate::support::settings::Settings;

/// The most memory that a process has had so far, MiB; none once it has ended, and on other systems than Linux.
fn peak_now(running: &Running) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib >> 10)
}

/// Waits until a process ends by itself; what it said, and the most memory that it was seen with, MiB.
fn measured(attack: &str, mut running: Running) -> (Outcome, u64) {
    let (began, mut peak) = (std::time::Instant::now(), 0);
    while running.is_running() {
        peak = peak_now(&running).map_or(peak, |now| now.max(peak));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let outcome = running.wait(PATIENCE);
    println!("{attack}: {peak} MiB, {:.1} s", began.elapsed().as_secs_f64());
    (outcome, peak)
}

/// The hostile plugin in this mode.
fn hostile(config: &Value) -> Settings {
    let config = config.to_string().replace("\":", "\" = ");
    let plugin = format!("component = \"{}\"\nconfig = {config}", plugin_file("hostile"));
    Settings { plugin, ..Settings::default() }
}

/// Events for the hostile plugin, a second apart, of these keys.
fn events<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<TestRecord> {
    events_every(1_000, keys)
}

/// The same, so many milliseconds apart.
fn events_every<'a>(ms: i64, keys: impl IntoIterator<Item = &'a str>) -> Vec<TestRecord> {
    let record = |(i, key): (i64, &str)| {
        let time = START_MS + i * ms;
        let value = json!({"key": key, "time": time, "v": i + 1_000}).to_string().into_bytes();
        TestRecord { partition: 0, offset: i.unsigned_abs(), timestamp: time, key: None, value: Some(value) }
    };
    (0..).zip(keys).map(record).collect()
}

/// A pipeline over `log.ndjson`, which holds these records.
fn pipeline(settings: &Settings, records: &[TestRecord]) -> Pipeline {
    let pipeline = Pipeline::new(&settings.to_toml());
    crate::support::generate::write_records(&pipeline.path("log.ndjson"), records);
    pipeline
}

/// Nothing that a host says is ever a panic or an internal error.
#[track_caller]
fn assert_calm(outcome: &Outcome) {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!said.contains("panicked") && outcome.code != Some(1), "{:?}: {said}", outcome.code);
}

#[test]
fn each_test_that_the_threat_model_or_the_list_of_attacks_names_is_there() {
    let (mut tests, mut folders) =
        (String::new(), vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the repository").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|extension| extension == "rs") => {
                    tests += &std::fs::read_to_string(path).expect("a source of the repository");
                }
                _ => {}
            }
        }
    }
    let mut named = 0;
    for text in [crate::support::guide::read("SECURITY.md"), crate::support::guide::read("tests/hostile/mod.rs")] {
        let code = text.split('`').skip(1).step_by(2).filter(|code| !code.contains(char::is_whitespace));
        for test in code.filter_map(|code| code.rsplit_once("::")).map(|(_, test)| test) {
            if test.matches('_').count() > 2 {
                named += 1;
                assert!(tests.contains(&format!("fn {test}()")), "no test has the name {test}");
            }
        }
    }
    assert!(named > 60, "{named} names");
}
