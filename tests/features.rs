//! What the features of the package bring in, by `cargo tree`.

use std::process::Command;

/// Names of all packages that the library is built from.
fn packages(flags: &[&str]) -> Vec<String> {
    let tree = ["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let output =
        Command::new(env!("CARGO")).args(tree).args(flags).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(String::from).collect()
}

#[test]
fn the_bare_library_has_neither_the_program_s_packages_nor_the_priors() {
    let program = ["anyhow", "clap", "ctrlc", "font8x8", "glob", "indicatif", "sigpipe"];
    let priors = ["dmap-cse-photo", "dmap-prior-photo", "dmap-prior-tiny-latent"];
    let has = |packages: &[String], name: &str| packages.iter().any(|p| p == name);
    for (flags, with_program, with_priors) in [
        (&["--no-default-features"][..], false, false),
        (&["--no-default-features", "--features", "cli"], true, false),
        (&["--no-default-features", "--features", "shipped"], false, true),
        (&[], true, true),
    ] {
        let found = packages(flags);
        assert!(has(&found, "dmap") && has(&found, "safetensors"), "{flags:?}: {found:?}");
        for name in program {
            assert_eq!(has(&found, name), with_program, "{name} with {flags:?}");
        }
        for name in priors {
            assert_eq!(has(&found, name), with_priors, "{name} with {flags:?}");
        }
    }
}
