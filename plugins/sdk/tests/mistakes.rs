//! What the compiler says of an author's common mistakes: where, and what to write instead.
//!
//! Each file in `mistakes/` is one; beside it is what the compiler of `rust-toolchain.toml` says. After a change that is meant, run this with
//! `TRYBUILD=overwrite`, and read what is written.

#[test]
fn a_common_mistake_is_told_where_it_is_and_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
