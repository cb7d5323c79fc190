//! What fuzzing kept of each decoder, through the same functions again; `tests/fuzz/run` makes it.

use tallystick_tests::fuzz::{TARGETS, corpus, make_forgeable};

#[test]
fn every_kept_input_holds() {
    if std::env::var("TALLYSTICK_GOLDEN").as_deref() == Ok("write") {
        make_forgeable().unwrap();
    }
    for target in TARGETS {
        for seed in (target.seeds)() {
            (target.run)(&seed);
        }
        let kept = corpus::kept(target);
        assert!(!kept.is_empty(), "{}", target.name);
        kept.iter().for_each(|input| (target.run)(input));
        println!("{}: {} inputs", target.name, kept.len());
    }
}
