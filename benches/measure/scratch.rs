//! Where benchmarks keep their data.

use tempfile::TempDir;

/// A new directory below `DLEDGER_BENCH_DIR`, or where temporary files go. Removed when dropped.
pub(crate) fn scratch() -> TempDir {
    let parent = std::env::var_os("DLEDGER_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    tempfile::Builder::new()
        .prefix("dledger-bench-")
        .tempdir_in(parent)
        .expect("the directory of the benchmarks can be written")
}
