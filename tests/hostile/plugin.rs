//! Plugins that nobody trusts yet: what compiling and keeping them may cost a host, and whom it lets bring native code.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::generate::write_records;
use crate::support::host::{Pipeline, plugin_file};
use crate::support::settings::Settings;

/// An unsigned number as WebAssembly writes it.
fn leb(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7f).expect("seven bits");
        n >>= 7;
        bytes.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return bytes;
        }
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &leb(content.len())[..], content].concat()
}

/// A component of 19 KB whose one function takes the compiler minutes and most of a gigabyte: 2,000 locals that change in 200 loops.
fn expensive() -> Vec<u8> {
    const LOCALS: usize = 2_000;
    const LOOPS: usize = 200;
    let change = |local: usize| [&[0x20][..], &leb(local), &[0x41, 1, 0x6a, 0x21], &leb(local)].concat();
    let changes: Vec<u8> = (0..LOCALS).flat_map(change).collect();
    let body = [
        &[1][..],
        &leb(LOCALS),
        &[0x7f],
        &[0x03, 0x40].repeat(LOOPS),
        &changes,
        &[0x20, 0, 0x0d, 0, 0x0b].repeat(LOOPS),
        &[0x0b],
    ]
    .concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[1, 0]),
        section(10, &[&[1][..], &leb(body.len()), &body].concat()),
    ];
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module.concat())].concat()
}

/// A pipeline that has folded a log, with these keys under `[plugin]`.
fn begun(plugin: &str) -> Pipeline {
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"ok\" }}\n{plugin}", plugin_file("hostile"));
    let pipeline = Pipeline::new(&Settings { plugin, ..Settings::default() }.to_toml());
    write_records(&pipeline.path("log.ndjson"), &[]);
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline
}

#[test]
fn compiling_a_plugin_ends_at_the_limit_of_time() {
    let pipeline = begun("compile_time = \"1s\"\ncache = \"cache\"");
    pipeline.write("expensive.wasm", &expensive());
    let refused = pipeline.call("deployment create", &["--dry-run", "expensive.wasm"]);
    refused.expect_code(4).expect_said(&["FAIL  plugin", "more than 1 s of CPU time (plugin.compile_time)"]);
}

#[test]
fn compiling_a_plugin_ends_at_the_limit_of_memory() {
    let pipeline = begun("compile_memory = \"128MiB\"\nmemory = \"16MiB\"\ncache = \"cache\"");
    pipeline.write("expensive.wasm", &expensive());
    let refused = pipeline.call("deployment create", &["--dry-run", "expensive.wasm"]);
    refused.expect_code(4).expect_said(&["FAIL  plugin", "134217728 bytes of memory (plugin.compile_memory)"]);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn compiled_plugins_are_kept_in_a_folder_of_the_user_alone_or_nowhere() {
    let pipeline = begun("cache = \"cache\"");
    let folder = pipeline.path("cache");
    assert_eq!(names(&folder).len(), 1, "{:?}", names(&folder));
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert!(names(&folder).iter().all(|name| mode(&folder.join(name)) == 0o600));
    assert!(!pipeline.path("state/cache").exists());

    std::fs::remove_dir_all(&folder).expect("the test's folder is writable");
    std::fs::create_dir(&folder).expect("the test's folder is writable");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("it is the test's own");
    write_records(&pipeline.path("log.ndjson"), &[]);
    pipeline.run_to_end(&[]).expect_code(0).logged("plugin-cache-refused");
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));
}
