//! Finds libqwen by pkg-config (PKG_CONFIG_PATH says where, for a library that pip installed).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn library_folder() -> PathBuf {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let asked = Command::new(&program).args(["--variable=libdir", "qwen"]).output();
    let output = asked.unwrap_or_else(|error| panic!("{program}, which knows where libqwen is, does not start: {error}"));
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(
        output.status.success() && !folder.is_empty(),
        "{program} knows no \"qwen\". Is libqwen installed? PKG_CONFIG_PATH must name the folder of its qwen.pc.\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(folder)
}

fn main() {
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let folder = library_folder();
    // `cargo run` and `cargo test` let the loader look into folders of the build only: links to the library lie in one.
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for name in ["libqwen.so", "libqwen.so.0"] {
        let link = Path::new(&out).join(name);
        let _ = fs::remove_file(&link);
        symlink(folder.join(name), &link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    }
    println!("cargo:rustc-link-search=native={out}");
    println!("cargo:rustc-link-lib=dylib=qwen");
}
