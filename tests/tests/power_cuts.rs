//! The plug of a machine pulled in the middle of sealing, ten times.
//!
//! The agent meters in a virtual machine with a kernel, an ext4 and a virtual disk of its own; the reconciler
//! stands outside and survives. After each cut the same disk boots again. Half of the cuts strike where a
//! failpoint stopped the agent, half while the disk, made slow, is at the writes of a seal. Afterwards both
//! halves, and the kernel's counters as the machine printed them until the last moment, are held against
//! each other.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;
use tallystick_agent::identity::Identity;
use tallystick_common::ids::{Hash, Seq};
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Gap, Interval};
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};
use tallystick_tests::draw::Draw;
use tallystick_tests::halves::{self, holds_i1, holds_i2, text};
use tallystick_tests::poll;
use tallystick_tests::process::binary;
use tallystick_tests::sides::Sides;
use tallystick_tests::vm::{self, DiskWork, Image, Machine, Vm};

const CUTS: usize = 10;
const GROUP: &str = "metered";
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the slow disk: a seal takes a few.
const WRITES_A_SECOND: u32 = 5;
const PROCESSORS: u64 = 2;
/// Between reading a counter and noting the time, on either side.
const SLACK_US: u64 = 150_000;
/// What a cut may cost of integrals: one sealing interval of a second, and as long as the next one's seal is
/// under way, on a slow disk and in a machine that may have to wait for its turn.
const LOST_MAX_US: u64 = 3_000_000;

/// Where a cut strikes.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// Where this failpoint has stopped the agent at its N-th passing.
    At(&'static str, u64),
    /// After the first write of a seal and so many more are completed, on a slow disk.
    Writing(u64),
}

/// What the machine printed at one moment.
#[derive(Debug, Clone, Copy)]
struct Seen {
    used: u128,
    at: u64,
    sealed: u64,
    receipted: Option<u64>,
}

/// One life of the machine.
#[derive(Debug)]
struct Life {
    how: String,
    away: bool,
    boot: String,
    seen: Vec<Seen>,
    /// When it ended, by the machine's own clock.
    cut_at: u64,
    /// Whether that was before a seal had come to its end.
    sealing: bool,
    /// Whether it found again what the life before had written and not synced.
    found_unsynced: bool,
}

/// The machine's clock as told by this host's: it is behind by the least that a line was old when read.
#[derive(Debug, Default)]
struct Clock(Cell<Option<(u64, u64)>>);

impl Clock {
    fn look(&self, said: &str) {
        let Some(last) = said.lines().rev().find_map(seen) else {
            return;
        };
        let behind = now_us().saturating_sub(last.at);
        match self.0.get() {
            Some((at, _)) if at == last.at => {}
            Some((_, least)) => self.0.set(Some((last.at, least.min(behind)))),
            None => self.0.set(Some((last.at, behind))),
        }
    }

    fn now(&self) -> u64 {
        now_us().saturating_sub(self.0.get().map_or(0, |(_, behind)| behind))
    }
}

fn now_us() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap()
}

struct Run {
    sides: Sides,
    draw: Draw,
    folder: tempfile::TempDir,
    lives: Vec<Life>,
    /// Every segment that the reconciler was seen to hold.
    held: BTreeMap<Seq, Hash>,
}

impl Run {
    fn begin() -> Self {
        let draw = Draw::seeded("power cuts");
        let sides = Sides::prepare(&[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let run = Self {
            sides,
            draw,
            folder,
            lives: Vec::new(),
            held: BTreeMap::new(),
        };
        run.make_image();
        run.make_disk();
        run
    }

    fn make_image(&self) {
        let image = Image::new(include_str!("../vm/power_cuts.sh")).unwrap();
        let agent = binary("tallystick-agent");
        image.program(agent, "tallystick-agent").unwrap();
        image.program("/bin/date", "bin/date").unwrap();
        let config = format!(
            "sample_seconds = 1\nseal_seconds = 1\ndata = \"/data/agent\"\n[cgroups]\ninclude = [\"{GROUP}\"]\n"
        );
        image.file("agent.toml", &config).unwrap();
        image.pack(self.folder.path()).unwrap();
    }

    /// The enrolled agent moves into the machine, from where its reconciler has another address.
    fn make_disk(&self) {
        let enrolment = self.sides.agent_data().join("identity/enrolment.json");
        let here = std::fs::read_to_string(&enrolment).unwrap();
        let there = here.replace("127.0.0.1:", &format!("{}:", vm::HOST));
        assert_ne!(here, there);
        std::fs::write(&enrolment, there).unwrap();
        let content = self.folder.path().join("content");
        std::fs::create_dir(&content).unwrap();
        std::fs::rename(self.sides.agent_data(), content.join("agent")).unwrap();
        vm::format(&self.disk(), 256, Some(&content)).unwrap();
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn boot(&self, parameters: &str) -> Vm {
        let machine = Vm::start(&Machine {
            initramfs: &self.folder.path().join("initramfs"),
            disk: &self.disk(),
            megabytes: 512,
            parameters,
        });
        machine.unwrap()
    }

    /// One life up to its cut.
    fn cut(&mut self, strike: Strike, away: bool) {
        self.set_reconciler(!away);
        let clock = Clock::default();
        let (vm, how, sealing) = match strike {
            Strike::At(name, pass) => self.struck_at(name, pass, &clock),
            Strike::Writing(writes) => self.writing(writes, &clock),
        };
        let cut_at = clock.now();
        let said = vm.cut().unwrap();
        let ended = matches!(strike, Strike::At(..));
        assert_eq!(
            said.contains("STRUCK"),
            ended,
            "the agent ends only where it is struck: {said}"
        );
        let mut life = Life::of(&said, how, cut_at);
        (life.away, life.sealing) = (away, sealing);
        assert!(life.seen.len() > 3, "{said}");
        for line in said.lines().filter(|line| line.contains("mended")) {
            println!("life {}: {line}", self.lives.len() + 1);
        }
        self.lives.push(life);
        self.note_held();
    }

    fn set_reconciler(&mut self, present: bool) {
        if let Some(reconciler) = self.sides.reconciler.take_if(|_| !present) {
            assert!(reconciler.terminate().unwrap().success());
        } else if present && self.sides.reconciler.is_none() {
            self.sides.start_reconciler(None).unwrap();
        }
    }

    fn struck_at(&self, name: &str, pass: u64, clock: &Clock) -> (Vm, String, bool) {
        let mut vm = self.boot(&format!("FAILPOINT={name}:{pass}"));
        let struck = vm.says(PATIENCE, |said| {
            clock.look(said);
            after(said, "STRUCK ")
        });
        assert_eq!(struck.unwrap(), "137", "{}", vm.said());
        let sealing = !name.starts_with("agent.receipt");
        (vm, format!("at {name}:{pass}"), sealing)
    }

    /// Waits until the disk has rested and is at work again, for so many writes.
    fn writing(&mut self, writes: u64, clock: &Clock) -> (Vm, String, bool) {
        let mut vm = self.boot("");
        let seals = 2 + self.draw.below(2);
        vm.says(PATIENCE, |said| {
            clock.look(said);
            let mut sealed = said.lines().filter_map(seen).map(|seen| seen.sealed);
            let first = sealed.next()?;
            sealed.any(|now| now >= first + seals).then_some(())
        })
        .unwrap();
        let end = Instant::now() + PATIENCE;
        let rest = until_at_work(&mut vm, end);
        let work = loop {
            let work = vm.disk_work().unwrap();
            if work.writes > rest.writes + writes {
                break work;
            }
            assert!(Instant::now() < end, "the disk does not go on writing");
            std::thread::sleep(Duration::from_millis(1));
        };
        clock.look(&vm.said());
        let (done, synced) = (work.writes - rest.writes, work.flushes - rest.flushes);
        let how = format!("writing: {done} writes, {synced} flushes after a rest");
        (vm, how, synced == 0)
    }

    /// The last life, to a good end, with all receipts; gives the kernel's last word.
    fn end_well(&mut self) -> u128 {
        self.set_reconciler(true);
        let said = self.boot("LAST=1").end(PATIENCE * 2).unwrap();
        for (key, value) in [("AGENT ", "0"), ("VERIFIED ", "0")] {
            assert_eq!(after(&said, key).as_deref(), Some(value), "{said}");
        }
        let life = Life::of(&said, "ended well".to_owned(), 0);
        self.lives.push(life);
        vm::copy_out(
            &self.disk(),
            "/agent",
            self.sides.agent_data().parent().unwrap(),
        )
        .unwrap();
        after(&said, "FINAL ").unwrap().parse().unwrap()
    }

    fn segments(&self) -> Vec<Value> {
        let api = self.sides.api().unwrap();
        api.all("/v1/nodes/metered/segments").unwrap()
    }

    /// All that the agent said to have a receipt for is held, and is as it was.
    fn note_held(&mut self) {
        if self.sides.reconciler.is_none() {
            return;
        }
        let segments = self.segments();
        let receipted = self.lives.iter().flat_map(|life| &life.seen);
        let receipted = receipted.filter_map(|seen| seen.receipted).max();
        assert!(
            receipted.is_none_or(|through| through < segments.len() as u64),
            "I2"
        );
        for segment in &segments {
            let seq = Seq(segment["seq"].as_u64().unwrap());
            let hash: Hash = text(segment, "hash").parse().unwrap();
            let known = self.held.insert(seq, hash);
            assert!(known.is_none_or(|known| known == hash), "I1: segment {seq}");
        }
    }
}

impl Life {
    fn of(said: &str, how: String, cut_at: u64) -> Self {
        // Enrolled, and no agent runs: whatever the cut before it left.
        assert_eq!(after(said, "STATUS ").as_deref(), Some("6"), "{said}");
        Self {
            how,
            away: false,
            sealing: false,
            boot: after(said, "BOOT ").unwrap(),
            seen: said.lines().filter_map(seen).collect(),
            cut_at,
            found_unsynced: after(said, "UNSYNCED ").unwrap() != "0",
        }
    }
}

/// Slows the disk down in a rest between two seals, and waits for it to be at work again; gives what it had
/// done in all when it rested.
fn until_at_work(vm: &mut Vm, end: Instant) -> DiskWork {
    let (mut before, mut since) = (vm.disk_work().unwrap(), Instant::now());
    let mut slow = false;
    loop {
        assert!(Instant::now() < end, "the disk is never at rest");
        let now = vm.disk_work().unwrap();
        if now.writes > before.writes && slow {
            return before;
        }
        if now != before {
            (before, since) = (now, Instant::now());
        }
        if !slow && since.elapsed() > Duration::from_millis(150) {
            vm.slow_disk(WRITES_A_SECOND).unwrap();
            slow = true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `SEEN used time sealed receipted`, whole.
fn seen(line: &str) -> Option<Seen> {
    let mut words = line.strip_prefix("SEEN ")?.split(' ');
    let used = words.next()?.parse().ok()?;
    let at = words.next()?.parse().ok()?;
    let sealed = words.next()?.parse().ok()?;
    let receipted = words.next()?.parse().ok();
    Some(Seen {
        used,
        at,
        sealed,
        receipted,
    })
}

/// The rest of the first whole line that begins so.
fn after(said: &str, key: &str) -> Option<String> {
    let whole = said.rsplit_once('\n')?.0;
    let found = whole.lines().find_map(|line| line.strip_prefix(key));
    found.map(|rest| rest.trim().to_owned())
}

/// What was sealed in one life of the machine.
struct Sealed<'a> {
    segments: Vec<&'a VerifiedSegment>,
}

impl Sealed<'_> {
    fn through(&self) -> u64 {
        let last = self.segments.last().unwrap();
        last.header().covered_through.as_micros()
    }

    fn first(&self) -> u64 {
        self.segments[0].header().seq.0
    }

    fn next(&self) -> u64 {
        self.first() + self.segments.len() as u64
    }

    /// The CPU time of the group that was billed from it.
    fn billed(&self) -> u128 {
        let intervals = intervals(&self.segments, &format!("cgroup/{GROUP}"), Meter::CPU_TIME);
        intervals.iter().map(|interval| interval.quantity).sum()
    }
}

fn intervals(segments: &[&VerifiedSegment], workload: &str, meter: Meter) -> Vec<Interval> {
    let mut found = Vec::new();
    for block in segments.iter().flat_map(|segment| segment.blocks()) {
        if block.workload.as_str() == workload {
            for run in block.runs().iter().filter(|run| run.meter == meter) {
                found.extend(block.intervals(run));
            }
        }
    }
    found
}

/// The kernel's counter at `at` was between these, by what was printed before and after.
fn bracket(seen: &[Seen], at: u64) -> (u128, u128) {
    let before = seen.iter().rev().find(|seen| seen.at + SLACK_US <= at);
    let mut pairs = seen.windows(2);
    let later = pairs.find(|pair| pair[0].at >= at + SLACK_US);
    let last = seen.last().unwrap();
    // Printed nothing any more: then as much as its processors can at most.
    let at_most = last.used + u128::from((at + SLACK_US).saturating_sub(last.at) * PROCESSORS);
    (
        before.map_or(0, |seen| seen.used),
        later.map_or(at_most, |pair| pair[1].used),
    )
}

#[test]
fn ten_power_cuts_in_the_middle_of_sealing_lose_nothing_sealed_and_bill_nothing_twice() {
    if !vm::available() {
        return;
    }
    let began = Timestamp::EPOCH.saturating_add(UNIX_EPOCH.elapsed().unwrap().into());
    let mut run = Run::begin();
    for (strike, away) in plan(&mut run.draw) {
        run.cut(strike, away);
    }
    assert_eq!(run.lives.len(), CUTS);
    let last_word = run.end_well();
    let status = run.sides.status().unwrap();
    assert_eq!((status.running, status.unreceipted), (false, 0));

    let listed = run.segments();
    holds_i1(&listed, status.next_seq);
    holds_i2(&listed, &run.held);
    let api = run.sides.api().unwrap();
    assert_eq!(api.all("/v1/refusals").unwrap(), [] as [Value; 0]);

    let identity = Identity::load(&run.sides.agent_data()).unwrap().unwrap();
    let stored = halves::stored(&run.sides);
    let report = halves::replayed(&identity, &stored);
    let measured = halves::measured(&report);
    poll::until(PATIENCE, "I3: usage is closing − opening", || {
        let billed = halves::billed(&run.sides, began.floor_to(QUARTER_HOUR_US));
        (billed.unwrap() == measured).then_some(())
    });

    let verified = |segment: SealedSegment| segment.verify(&identity.key_ring()).unwrap();
    let segments: Vec<VerifiedSegment> = stored.into_iter().map(verified).collect();
    let lives = by_life(&run.lives, &segments);
    nothing_sealed_was_lost(&run.lives, &lives);
    the_kernel_bears_it_out(&run.lives, &lives);
    let last = lives.last().unwrap();
    assert_eq!(last.billed(), last_word, "ended well: to the microsecond");
    let gaps = what_was_lost_is_shown(&run.lives, &lives);
    the_first_page_names(&gaps, &api.get("/v1/overview").unwrap());
    let sealing = run.lives.iter().filter(|life| life.sealing).count();
    assert!(
        sealing * 2 > CUTS,
        "only {sealing} cuts struck while something was being sealed"
    );
    // A cut that loses nothing would show nothing.
    let cost = run.lives[1..].iter().filter(|life| !life.found_unsynced);
    let cost = cost.count();
    assert!(cost * 2 > CUTS, "only {cost} cuts lost what was not synced");
    let billed: u128 = lives.iter().map(Sealed::billed).sum();
    let key = (format!("cgroup/{GROUP}"), "cpu.time".to_owned());
    assert_eq!(measured[&key], billed, "I3: every life once");
    println!(
        "{} segments of {} lives in one chain; {sealing} cuts while sealing, {cost} lost an unsynced file; billed {billed} µs of the group's CPU",
        segments.len(),
        lives.len()
    );
    run.sides.reconciler.take().unwrap().terminate().unwrap();
}

/// Half at failpoints around the journal, half on a slow disk; some of each without a reconciler.
fn plan(draw: &mut Draw) -> Vec<(Strike, bool)> {
    let mut at = |name, first| Strike::At(name, first + draw.below(4));
    // Receipts and states are appended too.
    let mut plan = vec![
        (at("agent.journal.appended", 10), false),
        (at("agent.journal.appended", 8), true),
        (at("agent.journal.synced", 4), false),
        (at("agent.sled.written", 4), true),
        (at("agent.receipt.journaled", 4), false),
    ];
    let writing = |writes, away| (Strike::Writing(writes), away);
    plan.extend([
        writing(0, false),
        writing(0, true),
        writing(1, false),
        writing(1, true),
        writing(2, false),
    ]);
    draw.shuffle(&mut plan);
    plan
}

/// The segments of each life, by the boot in their headers.
fn by_life<'a>(lives: &[Life], segments: &'a [VerifiedSegment]) -> Vec<Sealed<'a>> {
    let sealed = |life: &Life| Sealed {
        segments: segments
            .iter()
            .filter(|segment| segment.header().boot.to_string() == life.boot)
            .collect(),
    };
    let found: Vec<Sealed<'_>> = lives.iter().map(sealed).collect();
    let all: usize = found.iter().map(|sealed| sealed.segments.len()).sum();
    assert_eq!(all, segments.len(), "each segment is of one boot");
    found
}

/// What the agent had said to be sealed before the cut is there, as that life sealed it.
fn nothing_sealed_was_lost(lives: &[Life], sealed: &[Sealed<'_>]) {
    let mut next = 0;
    for (life, sealed) in lives.iter().zip(sealed) {
        assert_eq!(sealed.first(), next, "{life:?}");
        next = sealed.next();
        let said = life.seen.last().unwrap().sealed;
        assert!(
            said <= next,
            "I2: {said} were sealed, {next} are left; {}",
            life.how
        );
    }
}

/// At the end of each life's last segment the kernel had counted what was billed of that life.
fn the_kernel_bears_it_out(lives: &[Life], sealed: &[Sealed<'_>]) {
    for (life, sealed) in lives.iter().zip(sealed) {
        let (low, high) = bracket(&life.seen, sealed.through());
        let billed = sealed.billed();
        assert!(
            billed <= high,
            "I7: billed {billed} of at most {high}; {}",
            life.how
        );
        assert!(
            billed >= low,
            "billed {billed} of at least {low}; {}",
            life.how
        );
    }
}

/// From the last sealed instant to the first sample of the next boot nothing is claimed to be measured: it is
/// a gap, and there is no other.
fn what_was_lost_is_shown(lives: &[Life], sealed: &[Sealed<'_>]) -> Vec<Gap> {
    println!("\n no.  reconciler  segments  lost ms  how");
    for (number, (life, now)) in lives.iter().zip(sealed).enumerate().take(CUTS) {
        let lost = life.cut_at.saturating_sub(now.through());
        println!(
            "{:>4}  {:10}  {:>8}  {:>7}  {}",
            number + 1,
            if life.away { "away" } else { "there" },
            now.segments.len(),
            lost / 1000,
            life.how
        );
        assert!(
            lost <= LOST_MAX_US,
            "{lost} µs of integrals are lost; {}",
            life.how
        );
        let next = &sealed[number + 1].segments;
        let [gap] = next[0].header().gaps.as_slice() else {
            panic!("one gap for one cut: {:?}", next[0].header())
        };
        assert_eq!(
            gap.from.as_micros(),
            now.through(),
            "from what is sealed on"
        );
        assert!(
            gap.to.as_micros() > life.cut_at,
            "until after the cut: {gap:?}"
        );
        assert_eq!(gap.cause, Cause::NodeDown);
    }
    let headers = sealed.iter().flat_map(|sealed| &sealed.segments);
    let gaps: Vec<Gap> = headers
        .flat_map(|segment| segment.header().gaps.clone())
        .collect();
    assert_eq!(gaps.len(), CUTS, "one for each cut");
    gaps
}

/// The reconciler shows them, as far as they are of today.
fn the_first_page_names(gaps: &[Gap], overview: &Value) {
    let today = text(overview, "today").parse().unwrap();
    let named = overview["nodes"][0]["gaps"].as_array().unwrap();
    for gap in gaps.iter().filter(|gap| gap.from >= today) {
        let from = gap.from.to_string();
        let found = named.iter().find(|named| text(named, "from") == from);
        let found = found.unwrap_or_else(|| panic!("{gap:?} is not in {named:?}"));
        assert_eq!(text(found, "to"), gap.to.to_string());
        assert_eq!(text(found, "cause"), "node_down");
    }
}
