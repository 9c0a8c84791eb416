//! The tables of the rule on words: old names by folder, old files, and phrases with their replacement.

/// A phrase that texts must not contain.
pub struct Phrase {
    /// Its words, in lower case.
    pub words: &'static str,
    /// Words that make it fine when they follow.
    pub fine_before: &'static [&'static str],
    /// What to write instead.
    pub instead: &'static str,
}

const fn phrase(words: &'static str, instead: &'static str) -> Phrase {
    Phrase { words, fine_before: &[], instead }
}

/// Riddles, inversions and private metaphors.
pub const PHRASES: &[Phrase] = &[
    phrase("all the same", "still, anyway"),
    phrase("so many", "as many, this many, or the number"),
    phrase("the like", "name the things"),
    phrase("is told", "an actor and a verb: reports, logs, receives"),
    phrase("are told", "an actor and a verb: reports, logs, receives"),
    phrase("was told", "an actor and a verb: reports, logs, receives"),
    phrase("be told", "an actor and a verb: reports, logs, receives"),
    phrase("is asked of", "requests from"),
    phrase("is known of", "name what it is"),
    phrase("nothing is known", "name what is unknown"),
    phrase("what of it", "name the part"),
    phrase("nobody can say", "is unknown"),
    phrase("needs a look", "the number of problems, or what to do"),
    phrase("spine", "recording path"),
    phrase("mend", "recover, repair"),
    phrase("mends", "recovers, repairs"),
    phrase("mended", "recovered, repaired"),
    phrase("mending", "recovery, repair"),
    phrase("deaf", "unanswered"),
    phrase("heals", "recovers, is repaired"),
    phrase("heal", "recover, repair"),
    phrase("goes on", "continues, resumes"),
    phrase("go on", "continue, resume"),
    phrase("went on", "continued, resumed"),
    phrase("going on", "continuing"),
    Phrase { words: "stands", fine_before: &["for"], instead: "is" },
    phrase("as it stands", "as it is"),
    phrase("is away", "is down"),
    phrase("are away", "are down"),
    phrase("was away", "was down"),
    phrase("were away", "were down"),
    phrase("be away", "be down"),
    phrase("gives back", "returns"),
    phrase("give back", "return"),
    phrase("given back", "returned"),
    phrase("hears of", "receives, learns"),
    phrase("hear of", "receive, learn"),
    phrase("heard of", "received, learned"),
    phrase("behind our back", "by another program"),
    phrase("under us", "name what changed"),
    phrase("whatever it is", "name it"),
    phrase("what becomes of", "the outcome of"),
    phrase("rooms", "modules"),
    phrase("every room", "every module"),
    phrase("each room", "each module"),
];

/// Places (files, or folders with a `/`) and the old names that their code must not contain.
pub const OLD_NAMES: &[(&str, &str)] = &[
    ("benches/", "ASKERS House QUESTIONS lookers"),
    ("src/ tests/ benches/", "Pulse Pulses pulse pulses"),
    (
        "src/",
        "ConnectionNews JOB_NEEDS_SOMEBODY RunnerParts SPINE_FAILED Wedge take_wedge HISTORY_AWAY CACHE_AWAY \
         QUESTION_MAX RestError::Answer KafkaLog::look_at ClickhouseHistory::look_at RedisCache::look_at \
         cache::Latest cache::carry consume::Board consume::Standing consume::SharedLedger consume::Sorter \
         consume::Question gap::Ledger is_old( jobs.happened( log::Positions supervisor::Fault",
    ),
    (
        "src/admin/",
        "Asked Caller::Near Changing Desk Door NEAR_MAX Naming Recount Refusal Reloaded Told Trend Turns \
         by_anybody desk view:: trend:: LogStanding HistoryStanding CacheStanding DiskStanding",
    ),
    ("src/admin/page/", "Cover Edition Need News Press Pressed Said Sheet obey act:: glance:: needs:: press::"),
    ("src/app/", "Beginning Desk Knock Launch Market Reloaded Returns Saver Sources Waiting knock venue wiring"),
    ("src/audit/", "Absent KlineSeen Parts Said Seen TickSeen"),
    (
        "src/backfill/",
        "Anchor Anchors Begun Carrier PER_TURN Parts Place Settled Silence Trouble Turn Wish give_up mend",
    ),
    ("src/cache/", "Held Link carrier carry"),
    (
        "src/cli/",
        "Account Ask Asked Break Counted Held Near RANGES_TOLD Seen by_whom hole_before say! trend:: unfit \
         unless_enough",
    ),
    ("src/config/", "Notes manners redis_places showable without_place"),
    (
        "src/consume/",
        "Desk FoundHole Line Lines Parts Place Question Sealed Sorter parts settle_by_count share_out sorter",
    ),
    (
        "src/exchange/",
        "Decoded Heard Leave Routed Seen SessionParts ask_newest at_once give_up_waiting heard_at is_noting \
         keep_time parts tell_connected tell_end turn_until_end",
    ),
    ("src/exchange/rest/", "Purpose::Question Reserved ban_told judge told"),
    ("src/exchange/socket/", "AGAIN Again Line Link Turn"),
    ("src/gap/", "Around Hole"),
    ("src/history/clickhouse/", "Beyond Ends Hole"),
    ("src/history/embedded/", "Place Portion TURN_ROWS_MAX forget_beyond next_place take_turn"),
    ("src/ingest.rs", "Heard Parts heard in_hand parts"),
    (
        "src/jobs/",
        "Act Afterwards Glance House Memory MemoryFile Quiet Remembered Stops Told acts( glance( glances( \
         look_at( look_at_all( memory:: quiet:: recall( start_up( trust_the_clock( unseen(",
    ),
    ("src/ledger.rs", "HealTimes has_news heal_times"),
    ("src/log/", "TURN_FRAMES_MAX take_turn"),
    ("src/log/kafka/", "Gatherer Handover Numbers Watch gatherer handover"),
    ("src/progress.rs", "Board Standing"),
    ("src/replay.rs", "Replayed"),
    (
        "src/simulator/",
        "Cable Door Hub Tape What:: Wire WireFrame ending forget_before hub lists_lower pour tape tapes \
         with_tape",
    ),
    ("src/simulator/connection.rs", "Over"),
    ("src/simulator/control.rs", "Asked"),
    ("src/simulator/generator.rs", "Due Listed"),
    ("src/telemetry/", "Ear Listeners Order Told cried ears say_all"),
    ("src/writer.rs", "insist set_aside"),
    ("tests/", "control.over("),
    (
        "tests/it/contracts/",
        "InClickhouse InKafka InRedis MayPass Patient PatientConsumer insist may_pass murderer patient \
         turn_until",
    ),
    ("tests/it/program/", "PATIENCE Watcher eventually killed_amid_a_backlog stop_well"),
    ("tests/it/tidy/", "ROOMS made_up misnamed misshapen"),
];

/// Files that have another name now.
pub const OLD_FILES: &[&str] = &[
    "benches/heal.rs",
    "src/app/flow.rs",
    "src/app/market.rs",
    "src/app/saver.rs",
    "src/app/venue.rs",
    "src/app/wiring.rs",
    "src/audit/absent.rs",
    "src/audit/seen.rs",
    "src/backfill/absent.rs",
    "src/backfill/anchors.rs",
    "src/backfill/wanted.rs",
    "src/cli/covered.rs",
    "src/cli/demo/account.rs",
    "src/cli/export/seen.rs",
    "src/cli/said.rs",
    "src/consume/board.rs",
    "src/consume/desk.rs",
    "src/consume/line.rs",
    "src/consume/share.rs",
    "src/consume/sorter.rs",
    "src/gap/ledger.rs",
    "src/jobs/memory.rs",
    "src/jobs/planner/job/quiet.rs",
    "src/pulse.rs",
    "src/simulator/door.rs",
    "src/simulator/hub.rs",
    "src/simulator/tape.rs",
    "src/simulator/wire.rs",
    "tests/it/contracts/patient.rs",
    "tests/it/lookup.rs",
    "tests/it/program/market.rs",
    "tests/it/program/nothing.rs",
    "tests/it/program/watching.rs",
];
