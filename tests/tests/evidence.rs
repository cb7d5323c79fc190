//! Evidence of an invoice: whole it stands, and whatever is changed in it is found and named.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use tallystick_common::codec;
use tallystick_common::evidence::Evidence;
use tallystick_common::ids::Hash;
use tallystick_common::seal::SealedSegment;
use tallystick_common::verify::evidence::{Difference, Report, Step, Trust, verify};
use tallystick_tests::draw::Draw;
use tallystick_tests::evidence::October;
use tallystick_tests::fuzz::hex_file;

#[path = "evidence/resigned.rs"]
mod resigned;
#[path = "evidence/way.rs"]
mod way;

const FLIPS: usize = 1000;

fn checked(file: &[u8], trust: &[Trust]) -> Result<Report, Difference> {
    verify(file, trust, None)
}

fn trust(text: &str) -> Trust {
    text.parse().unwrap()
}

#[tokio::test]
async fn evidence_stands_and_says_what_the_invoice_says() {
    let october = October::new().await.unwrap();
    let report = checked(&october.file, &[]).unwrap();
    assert_eq!(report.number, october.number);
    assert!(!report.standing.authenticated);
    let ids: Vec<&str> = report.lines.iter().map(|line| line.id.as_str()).collect();
    assert_eq!(ids[..2], ["starter/cpu", "starter/memory"]);
    let cpu = &report.lines[0].usage;
    let moved = cpu
        .iter()
        .find(|usage| usage.workload.as_str() == "cgroup/moving")
        .unwrap();
    assert!(moved.host.is_some(), "of the whole host");
    let last = moved.registers.last().unwrap();
    assert_eq!(
        last.to.to_string(),
        "2026-10-17T09:15:00Z",
        "until it changed hands"
    );
    let text = report.to_string();
    for said in [
        "Acme Ltd",
        "cgroup/acme-batch",
        "of the whole host",
        "not authenticated",
    ] {
        assert!(text.contains(said), "{said} in\n{text}");
    }
}

#[tokio::test]
async fn trust_comes_from_outside_the_file() {
    let october = October::new().await.unwrap();
    let authority = &october.office.authority;
    let present = trust(&authority.ca_fingerprint().to_string());
    let first = trust(&authority.earlier()[0].fingerprint.to_string());
    let node = trust(&october.teller.enrolled.to_string());
    let kept = trust(&october.office.checkpoint().await.unwrap());
    for (what, trust) in [
        ("first", &first),
        ("present", &present),
        ("node", &node),
        ("kept", &kept),
    ] {
        let standing = checked(&october.file, std::slice::from_ref(trust))
            .unwrap()
            .standing;
        assert!(
            standing.authenticated && standing.unused.is_empty(),
            "{what}: {standing:?}"
        );
    }
    let stranger = trust(&"ab".repeat(32));
    let standing = checked(&october.file, &[stranger]).unwrap().standing;
    assert!(!standing.authenticated);
    assert_eq!(standing.unused.len(), 1);
    let other = October::new().await.unwrap();
    let kept = trust(&other.office.checkpoint().await.unwrap());
    let difference = checked(&october.file, &[kept]).unwrap_err();
    assert_eq!(difference.step, Step::Audit, "{difference}");
}

/// How often each step was named.
type Named = BTreeMap<Step, usize>;

fn flip(file: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = file.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

/// Found by fuzzing: a holding of a time in which nothing was used decides no amount.
#[test]
fn a_holding_of_what_the_statement_does_not_name_is_found() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/evidence/invoice-1.hex");
    let mut evidence = Evidence::decode(&hex_file(&golden)).unwrap();
    let mut holdings = evidence.terms.holdings.iter_mut();
    let idle = holdings.rfind(|held| held.workload == "cgroup/acme-batch");
    idle.unwrap().workload = "cgroup/acme-b~tch".to_owned();
    let difference = checked(&evidence.encode(), &[]).unwrap_err();
    assert_eq!(difference.step, Step::Assignments, "{difference}");
}

#[tokio::test]
async fn every_changed_bit_is_found_and_its_step_named() {
    let october = October::new().await.unwrap();
    let file = &october.file;
    let mut draw = Draw::seeded("flipped bits");
    let mut named = Named::new();
    for _ in 0..FLIPS {
        let bit = usize::try_from(draw.below(file.len() as u64 * 8)).unwrap();
        let difference =
            checked(&flip(file, bit), &[]).expect_err(&format!("bit {bit} is not found"));
        *named.entry(difference.step).or_default() += 1;
    }
    println!(
        "{} bytes, {FLIPS} flipped bits, by step: {named:?}",
        file.len()
    );
    assert!(named.len() > 5, "steps are told apart: {named:?}");
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_found() {
    let file = October::new().await.unwrap().file;
    let mut draw = Draw::seeded("cut files");
    for _ in 0..100 {
        let end = usize::try_from(draw.below(file.len() as u64)).unwrap();
        let difference = checked(&file[..end], &[]).unwrap_err();
        assert_eq!(difference.step, Step::File, "{difference}");
    }
    let longer = [file.as_slice(), &[0]].concat();
    assert_eq!(checked(&longer, &[]).unwrap_err().step, Step::File);
}

/// The block of a workload in a segment, as sealed.
fn block_bytes(sealed: &SealedSegment, workload: &str) -> Option<Vec<u8>> {
    let blocks = sealed.kept_blocks().unwrap();
    let index = blocks
        .iter()
        .position(|block| block.workload.as_str() == workload)?;
    Some(blocks[index].encode(sealed.header().from))
}

fn holds(file: &[u8], bytes: &[u8]) -> bool {
    file.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test]
async fn nothing_of_other_customers_is_in_the_file() {
    let october = October::new().await.unwrap();
    for full in [false, true] {
        let file = october.office.export(&october.number, full).await.unwrap();
        for word in ["rival", "Rival Inc"] {
            assert!(!holds(&file, word.as_bytes()), "{word} in {full}");
        }
        let mut compared = 0;
        for sealed in &october.sealed {
            let bytes = block_bytes(sealed, "cgroup/rival.slice").unwrap();
            assert!(!holds(&file, &bytes));
            // The seed, from which every salt follows, is 32 bytes within the sealed ones.
            let header = codec::encode(sealed.header());
            let at = sealed
                .bytes()
                .windows(header.len())
                .position(|w| w == header)
                .unwrap();
            let seed = &sealed.bytes()[at + header.len()..at + header.len() + 32];
            assert!(!holds(&file, seed));
            compared += 1;
        }
        assert_eq!(compared, october.sealed.len());
        let after = october.sealed.iter().find(|sealed| {
            sealed.header().from.to_string().as_str() > "2026-10-19" && sealed.header().seq.0 > 0
        });
        let moved = block_bytes(after.unwrap(), "cgroup/moving").unwrap();
        assert!(!holds(&file, &moved), "after it changed hands");
    }
}

#[tokio::test]
async fn full_evidence_shows_every_segment_and_says_the_same() {
    let october = October::new().await.unwrap();
    let file = october.office.export(&october.number, true).await.unwrap();
    assert!(file.len() > october.file.len());
    let (few, all) = (
        checked(&october.file, &[]).unwrap(),
        checked(&file, &[]).unwrap(),
    );
    assert_eq!((few.lines, few.total), (all.lines, all.total));
}

/// A file whose parts can be changed.
fn opened(file: &[u8]) -> Evidence {
    Evidence::decode(file).unwrap()
}

#[test]
fn what_is_decoded_is_encoded_alike() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let file = runtime.block_on(October::new()).unwrap().file;
    assert_eq!(opened(&file).encode(), file);
}

fn a_file() -> &'static [u8] {
    static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    FILE.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(October::new()).unwrap().file
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_the_verifier_panic(
        place in any::<prop::sample::Index>(),
        cut in 0_usize..40,
        put in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let file = a_file();
        let at = place.index(file.len());
        let end = (at + cut).min(file.len());
        let changed = [&file[..at], &put, &file[end..]].concat();
        prop_assert_eq!(checked(&changed, &[]).is_ok(), changed == file);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let bare = Evidence::decode(&bytes).is_err();
        let begun = [b"tallystick-proof\0\x01".as_slice(), &bytes].concat();
        prop_assert!(bare && Evidence::decode(&begun).is_err());
    }
}

/// One file is kept for ever: what was exported once can be checked for as long as it is of use.
#[tokio::test]
async fn evidence_keeps_its_bytes() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/evidence/invoice-1.hex");
    if std::env::var("TALLYSTICK_GOLDEN").as_deref() == Ok("write") && !path.exists() {
        let file = October::new().await.unwrap().file;
        let text = data_encoding::HEXLOWER.encode(&file);
        let lines = text
            .as_bytes()
            .chunks(96)
            .map(|line| std::str::from_utf8(line).unwrap());
        let lines: Vec<&str> = lines.collect();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let kept = std::fs::read_to_string(&path).expect("TALLYSTICK_GOLDEN=write makes a new file");
    let kept = data_encoding::HEXLOWER
        .decode(kept.replace('\n', "").as_bytes())
        .unwrap();
    assert_eq!(opened(&kept).encode(), kept);
    let key = tallystick_common::keys::SecretKey::from_seed(&[5; 32]).public();
    let report = checked(&kept, &[trust(&key.to_string())]).unwrap();
    assert!(report.standing.authenticated);
    assert_eq!(report.number, "TS-2026-000001");
    assert_eq!(report.lines.len(), 4);
}

#[test]
fn a_checkpoint_or_key_is_told_from_other_words() {
    assert_eq!(trust(&"ab".repeat(32)), Trust::Key(Hash([0xab; 32])));
    assert!("hello".parse::<Trust>().is_err());
}
