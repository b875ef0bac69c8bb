//! `keyfold state backup` and `restore`.

use crate::load::Load;
use crate::support::host::{PATIENCE, Pipeline, plugin_file};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;
use crate::topics::read_back;

#[test]
fn a_backup_that_was_taken_while_the_host_ran_gives_the_same_rows() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "backed-up", 2_000);
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"m0\" }}", plugin_file("hostile"));
    let settings = Settings { plugin, checkpoint_interval: "100ms".to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.over_kafka(&brokers, "backed-up").to_toml());
    let url = |name: &str| format!("file://{}", pipeline.path(name).display());
    let mut host = pipeline.spawn(&[]);
    let rows = || std::fs::metadata(pipeline.path("rows.ndjson")).map_or(0, |file| file.len());
    host.wait_until("rows are written", || rows() > 50_000);
    for backup in ["first", "second"] {
        let said = pipeline.call("state backup", &[&url(backup)]);
        said.expect_code(0).expect_said(&["copied 1 lane(s)"]);
    }
    let before = rows();
    host.wait_until("more rows are written", || rows() > before + 50_000);
    pipeline.call("state backup", &[&url("first")]).expect_code(5).expect_said(&["holds a pipeline"]);
    // Not beside a host, nor over what is there.
    pipeline.call("state restore", &[&url("second")]).expect_code(5).expect_said(&["a host is running"]);
    host.kill();
    pipeline.call("state restore", &[&url("second")]).expect_code(5).expect_said(&["holds a pipeline"]);
    std::fs::remove_dir_all(pipeline.path("state")).expect("the test's folder is writable");
    pipeline.call("state restore", &[&url("second")]).expect_code(0);
    let mut host = pipeline.spawn(&[]);
    assert_eq!(host.wait_logged("lane-started")["from_checkpoint"], true);
    host.wait_until("rows are written on", || rows() > before + 60_000);
    load.finish();
    host.terminate(PATIENCE).expect_code(0);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, "m0");
    let want = model::run_deployed(fold, &read_back(&brokers, "backed-up"), Time::default(), &[]).values();
    assert_same("restored", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
    // A copy that was not finished is not used.
    std::fs::remove_dir_all(pipeline.path("state")).expect("the test's folder is writable");
    std::fs::remove_file(pipeline.path("first/log/pipeline.json")).expect("it is the backup's");
    pipeline.call("state restore", &[&url("first")]).expect_code(3).expect_said(&["there is no pipeline to copy"]);
    pipeline.run_to_end(&["--until-end"]).expect_code(5).expect_said(&["journal"]);
}
