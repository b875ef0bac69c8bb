//! Compiler errors for common mistakes: they point at the mistake, and say what to write instead.
//!
//! Each file in `mistakes/` is a mistake. The file beside it has the errors of the compiler in `rust-toolchain.toml`. After an intended change,
//! run this test with `TRYBUILD=overwrite` and read the difference.

#[test]
fn errors_for_common_mistakes_say_where_they_are_and_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
