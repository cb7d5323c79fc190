//! Gives one target of `tallystick_tests::fuzz` to libFuzzer. `../run` builds and calls it.
//!
//! `TALLYSTICK_FUZZ` names the target. With `TALLYSTICK_FUZZ_UNPACK` or `_PACK` it writes seeds and corpus into
//! that folder, or keeps what is in it, and ends.

#![no_main]

use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tallystick_tests::fuzz::{TARGETS, Target, corpus, make_forgeable, target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: begin(),
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(bytes);
        }
    }
);

fn begin() {
    let name = std::env::var("TALLYSTICK_FUZZ").unwrap_or_default();
    let Some(target) = target(&name) else {
        for target in TARGETS {
            println!("{}", target.name);
        }
        exit(i32::from(!name.is_empty()));
    };
    if let Ok(folder) = std::env::var("TALLYSTICK_FUZZ_UNPACK") {
        if let Err(error) = make_forgeable() {
            eprintln!("{error:#}");
            exit(1);
        }
        let folder = Path::new(&folder);
        end(corpus::unpack(target, folder).and_then(|()| corpus::words(target, folder)));
    }
    if let Ok(folder) = std::env::var("TALLYSTICK_FUZZ_PACK") {
        end(corpus::pack(target, Path::new(&folder)));
    }
    let _ = TARGET.set(target);
}

fn end(done: std::io::Result<()>) -> ! {
    if let Err(error) = &done {
        eprintln!("{error}");
    }
    exit(i32::from(done.is_err()));
}
