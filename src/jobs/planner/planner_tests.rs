//! When jobs are due, on two clocks that the tests set.

use std::time::Duration;

use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;
use crate::jobs::spec::{
    Align, Jitter, JobEvent, MissedPolicy, Overlap, Requirement, Retry, SchedulerOptions, TaskKind, When,
};

fn job(name: &str, when: When) -> JobSpec {
    JobSpec::new(name, TaskKind::StateSnapshot, when)
}

fn every(name: &str, seconds: u64) -> JobSpec {
    job(name, When::every(Duration::from_secs(seconds)))
}

fn cron(name: &str, text: &str) -> JobSpec {
    job(name, When::Cron { text: text.to_owned(), timezone: Tz::UTC })
}

fn at(seconds: f64) -> Now {
    Now { wall: Timestamp((seconds * 1e6) as i64), monotonic: Duration::from_secs_f64(seconds) }
}

fn schedule(jobs: impl IntoIterator<Item = JobSpec>) -> Schedule {
    Schedule { jobs: jobs.into_iter().collect(), ..Schedule::default() }
}

fn planner(jobs: impl IntoIterator<Item = JobSpec>, now: Now) -> Planner {
    Planner::new(schedule(jobs), &SchedulerState::default(), Seeds::default(), now)
}

/// The runs and skips that are due; each run succeeds at once.
fn run(planner: &mut Planner, now: Now) -> (Vec<Firing>, Vec<Skipped>) {
    let (mut started, mut skipped) = (Vec::new(), Vec::new());
    loop {
        let actions = planner.due(now);
        let before = started.len();
        for action in actions {
            match action {
                Action::Start(firing) => {
                    planner.finished(&firing.job, RunOutcome::Succeeded, now);
                    started.push(firing);
                }
                Action::Skip(skip) | Action::Defer(skip) => skipped.push(skip),
                Action::Cancel(job) => panic!("{job} is cancelled although nothing runs"),
            }
        }
        if started.len() == before {
            return (started, skipped);
        }
    }
}

fn started(planner: &mut Planner, now: Now) -> Vec<String> {
    run(planner, now).0.into_iter().map(|firing| firing.job).collect()
}

fn one_skip(actions: &[Action]) -> &Skipped {
    match actions {
        [Action::Skip(skip)] => skip,
        other => panic!("not one skip: {other:?}"),
    }
}

#[test]
fn a_period_fires_once_a_period() {
    let mut planner = planner([every("job", 30)], at(0.0));
    assert_eq!(planner.wait(at(0.0)), Some(Duration::from_secs(30)));
    assert_eq!(planner.due(at(29.9)), []);
    assert_eq!(started(&mut planner, at(30.0)), ["job"]);
    assert_eq!(planner.due(at(30.1)), []);
    let (fired, _) = run(&mut planner, at(60.2));
    assert_eq!((fired[0].scheduled_at, fired[0].trigger), (Timestamp(60_000_000), Trigger::Schedule));
}

#[test]
fn an_aligned_period_follows_the_steps_of_the_wall_clock() {
    let spec = job("job", When::Every { period: Duration::from_secs(60), align: Align::Wall });
    let mut planner = planner([spec], at(1_030.0));
    assert_eq!(planner.next("job", at(1_030.0)), Some(at(1_080.0).wall));
    let stepped = Now { wall: Timestamp(2_000_000_000 + 55_000_000), monotonic: Duration::from_secs(1_031) };
    assert_eq!(planner.due(stepped), []);
    assert_eq!(planner.next("job", stepped), Some(Timestamp(2_100_000_000)));
}

#[test]
fn a_stall_is_one_run_and_a_recorded_skip_of_the_others() {
    for (stall, missed) in [(30.0, 0), (75.0, 1), (3_000.0, 99)] {
        let mut planner = planner([every("job", 30), cron("cron", "*/30 * * * * *")], at(0.0));
        let (fired, skips) = run(&mut planner, at(stall));
        assert_eq!(fired.len(), 2, "{stall}");
        let counts: Vec<u64> = skips.iter().map(|skip| skip.count).collect();
        assert_eq!(counts, if missed == 0 { vec![] } else { vec![missed; 2] }, "{stall}");
        assert_eq!(run(&mut planner, at(stall + 0.1)), (vec![], vec![]));
        assert_eq!(started(&mut planner, at(stall + 30.0)).len(), 2, "it continues after a stall");
    }
}

#[test]
fn missed_instants_run_by_the_policy_of_the_job() {
    for (policy, window, runs, skipped) in [
        (MissedPolicy::Skip, None, 0, 20),
        (MissedPolicy::RunOnce, None, 1, 19),
        (MissedPolicy::RunOnce, Some(5), 0, 20),
        (MissedPolicy::RunAll, None, 10, 10),
        (MissedPolicy::RunAll, Some(150), 3, 17),
    ] {
        let mut spec = cron("job", "* * * * *");
        spec.missed.policy = policy;
        spec.missed.window = window.map(Duration::from_secs);
        spec.missed.cap = 10;
        let mut planner = planner([spec], at(0.0));
        let (fired, skips) = run(&mut planner, at(20.0 * 60.0 + 20.0));
        let count: u64 = skips.iter().map(|skip| skip.count).sum();
        assert_eq!((fired.len(), count), (runs, skipped), "{policy:?} {window:?}");
        let ordered = fired.windows(2).all(|pair| pair[1].scheduled_at.since(pair[0].scheduled_at) == 60_000_000);
        assert!(ordered && fired.iter().all(|firing| firing.trigger == Trigger::CatchUp));
        assert!(fired.last().is_none_or(|last| last.scheduled_at == Timestamp(1_200_000_000)));
    }
}

#[test]
fn instants_missed_while_the_service_was_down_run_later_or_are_recorded() {
    let mut first = planner([cron("job", "0 * * * *"), every("other", 60)], at(100.0));
    assert_eq!(started(&mut first, at(3_600.5)), ["other", "job"]);
    let state = first.take_changed_state().unwrap();
    // Three hours later in another process: its monotonic clock starts at zero.
    let now = Now { wall: Timestamp(4 * 3_600_000_000 + 5), monotonic: Duration::ZERO };
    let again = schedule([cron("job", "0 * * * *"), every("other", 60)]);
    let mut second = Planner::new(again, &state, Seeds::default(), now);
    let (fired, skips) = run(&mut second, now);
    assert_eq!((fired.len(), fired[0].scheduled_at), (1, Timestamp(4 * 3_600_000_000)));
    assert_eq!((skips.len(), skips[0].count, skips[0].first), (1, 2, Timestamp(2 * 3_600_000_000)));
}

#[test]
fn a_step_of_the_wall_clock_moves_no_period_and_stops_no_cron() {
    for step in [3_600.0, -3_600.0, 86_400.0, -86_400.0] {
        let start = 1_700_000_000.0;
        let mut planner = planner([every("every", 30), cron("cron", "0 */5 * * * *")], at(start));
        let (mut periods, mut crons) = (0, Vec::new());
        for second in 1..=1_200 {
            let second = f64::from(second);
            let wall = if second > 400.0 { start + second + step } else { start + second };
            let now = Now { wall: at(wall).wall, monotonic: at(start + second).monotonic };
            for firing in run(&mut planner, now).0 {
                match firing.job.as_str() {
                    "every" => periods += 1,
                    _ => crons.push(second),
                }
            }
        }
        assert_eq!(periods, 40, "{step}");
        let longest = crons.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(longest <= 300.0 && crons.len() >= 4, "{step}: {crons:?}");
    }
}

#[test]
fn a_resumed_machine_recovers_at_once_and_counts_the_missed_instants() {
    for hours in [1.0, 8.0, 24.0 * 30.0] {
        let start = 1_700_000_000.0;
        let mut planner = planner([every("every", 30), cron("cron", "0 */5 * * * *")], at(start));
        run(&mut planner, at(start + 10.0));
        // During a suspend the wall clock advances and the monotonic clock does not.
        let awake = |seconds: f64| Now {
            wall: at(start + 10.0 + hours * 3_600.0 + seconds).wall,
            monotonic: at(start + 10.0 + seconds).monotonic,
        };
        let (fired, skips) = run(&mut planner, awake(1.0));
        assert_eq!((fired.len(), fired[0].job.as_str(), fired[0].trigger), (1, "cron", Trigger::CatchUp));
        let counted: u64 = skips.iter().map(|skip| skip.count).sum();
        assert_eq!(counted + 1, (hours * 12.0) as u64, "every instant of the suspend is reported");
        let names: Vec<String> = (2..=400).flat_map(|s| started(&mut planner, awake(f64::from(s)))).collect();
        let count = |name: &str| names.iter().filter(|job| *job == name).count();
        assert!(count("every") == 13 && (1..=2).contains(&count("cron")), "{names:?}");
    }
}

#[test]
fn a_time_of_day_does_not_run_again_when_the_clock_goes_back_over_it() {
    let day = 86_400.0;
    let mut planner = planner([cron("job", "30 2 * * *")], at(day));
    assert_eq!(started(&mut planner, at(day + 9_000.0)), ["job"]);
    let back = |seconds: f64| Now { wall: at(day + 9_100.0 - 3_600.0 + seconds).wall, ..at(day + 9_100.0 + seconds) };
    assert_eq!(started(&mut planner, back(0.0)), Vec::<String>::new());
    assert_eq!(started(&mut planner, back(4_000.0)), Vec::<String>::new());
    assert_eq!(planner.next("job", back(4_000.0)), Some(at(2.0 * day + 9_000.0).wall));
}

#[test]
fn an_overlapping_run_is_skipped_or_queued_or_replaces_and_is_always_reported() {
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Replace] {
        let mut spec = every("job", 10);
        spec.overlap = overlap;
        let mut planner = planner([spec], at(0.0));
        assert!(matches!(planner.due(at(10.0))[..], [Action::Start(_)]));
        let actions = planner.due(at(20.0));
        match overlap {
            Overlap::Skip => assert_eq!(one_skip(&actions).reason, "its last run has not ended"),
            Overlap::Queue => assert_eq!(actions, []),
            Overlap::Replace => assert_eq!(actions, [Action::Cancel("job".to_owned())]),
        }
        if overlap == Overlap::Queue {
            assert_eq!(one_skip(&planner.due(at(30.0))).count, 1);
        }
        planner.finished("job", RunOutcome::Cancelled, at(35.0));
        let after: Vec<Action> = planner.due(at(35.0));
        match overlap {
            // By now the instant at 30 was skipped as well.
            Overlap::Skip => assert_eq!(after.len(), 1),
            _ => assert!(after.iter().any(|action| matches!(action, Action::Start(_))), "{overlap:?}: {after:?}"),
        }
    }
}

#[test]
fn the_number_of_runs_is_limited_and_a_deadline_ends_the_wait() {
    let mut late = every("late", 10);
    late.deadline = Some(Duration::from_secs(5));
    let mut planner = planner([every("a", 10), every("b", 10), late], at(0.0));
    planner.options = SchedulerOptions { max_concurrent: 1, ..SchedulerOptions::default() };
    let names = |actions: Vec<Action>| -> Vec<String> {
        let name = |action| if let Action::Start(firing) = action { Some(firing.job) } else { None };
        actions.into_iter().filter_map(name).collect()
    };
    assert_eq!(names(planner.due(at(10.0))), ["a"]);
    assert_ne!(planner.wait(at(10.0)), Some(Duration::ZERO), "a full scheduler does not spin");
    planner.finished("a", RunOutcome::Succeeded, at(12.0));
    assert_eq!(names(planner.due(at(12.0))), ["b"]);
    let actions = planner.due(at(15.1));
    assert_eq!(one_skip(&actions).reason, "it could not start within 5 s");
}

#[test]
fn a_failed_run_is_retried_with_its_window_up_to_the_limit() {
    let mut spec = every("job", 1_000);
    spec.window = true;
    spec.retry = Retry { max: 2, backoff: Duration::from_secs(10), jitter: None };
    let mut planner = planner([spec], at(0.0));
    let mut now = 1_000.0;
    for attempt in 1..=3 {
        let actions = planner.due(at(now));
        let [Action::Start(firing)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((firing.attempt, firing.window), (attempt, Some((Timestamp(0), Timestamp(1_000_000_000)))));
        match planner.finished("job", RunOutcome::Failed, at(now)) {
            FollowUp::Retry(wait) => {
                let doubled = Duration::from_secs(10 << (attempt - 1));
                assert!(attempt < 3 && (doubled..=doubled * 5 / 4).contains(&wait), "{wait:?}");
                now += wait.as_secs_f64() + 0.001;
            }
            FollowUp::Nothing => assert_eq!(attempt, 3),
            FollowUp::Paused(_) => panic!("the job has no `pause_after`"),
        }
    }
    let (fired, _) = run(&mut planner, at(2_000.0));
    assert_eq!(fired[0].window, Some((Timestamp(0), Timestamp(2_000_000_000))), "the next run covers it");
}

#[test]
fn consecutive_failures_pause_a_job_across_a_restart() {
    let mut spec = every("job", 10);
    spec.pause_after = 2;
    let mut planner = planner([spec.clone()], at(0.0));
    for (now, after) in [(10.0, FollowUp::Nothing), (20.0, FollowUp::Paused(2))] {
        assert_eq!(planner.due(at(now)).len(), 1);
        assert_eq!(planner.finished("job", RunOutcome::Failed, at(now)), after);
    }
    let state = planner.take_changed_state().unwrap();
    let planner = Planner::new(schedule([spec]), &state, Seeds::default(), at(25.0));
    assert_eq!(planner.paused("job"), Some("it failed 2 times in a row"));
    assert_eq!(planner.wait(at(25.0)), None);
}

#[test]
fn a_deferred_job_runs_its_latest_instant_or_each_of_them() {
    for (policy, instants) in [(MissedPolicy::RunOnce, vec![30.0]), (MissedPolicy::RunAll, vec![10.0, 20.0, 30.0])] {
        let mut spec = every("job", 10);
        spec.requires = vec![Requirement::DISK_FREE];
        spec.missed.policy = policy;
        let mut planner = planner([spec], at(0.0));
        planner.set_unmet(vec![(Requirement::DISK_FREE, "7 MiB are free".to_owned())]);
        let actions = planner.due(at(10.0));
        assert!(
            matches!(&actions[..], [Action::Defer(skip)] if skip.reason == "it requires disk.free: 7 MiB are free")
        );
        assert_ne!(planner.wait(at(10.0)), Some(Duration::ZERO), "a deferred run does not spin");
        for second in 11..=31 {
            assert_eq!(planner.due(at(f64::from(second))), [], "a deferral is reported once");
        }
        planner.set_unmet(Vec::new());
        let (fired, deferred) = run(&mut planner, at(31.0));
        let fired: Vec<Timestamp> = fired.into_iter().map(|firing| firing.scheduled_at).collect();
        assert_eq!(fired, instants.iter().map(|seconds| at(*seconds).wall).collect::<Vec<_>>(), "{policy:?}");
        assert_eq!((deferred.len(), deferred[0].count, deferred[0].last), (1, 3, at(30.0).wall));
    }
}

#[test]
fn the_time_before_the_start_counts_for_at_most_half_of_max_silence() {
    let mut spec = every("job", 10_000);
    spec.max_silence = Some(Duration::from_secs(100));
    let mut state = SchedulerState::default();
    let long_ago = JobState { succeeded: Some(0), ..JobState::default() };
    state.jobs.insert("job".to_owned(), long_ago);
    let begin = at(1e6);
    let planner = Planner::new(schedule([spec]), &state, Seeds::default(), begin);
    assert_eq!(planner.silent_jobs(at(1e6 + 49.0)), []);
    assert_eq!(planner.silent_jobs(at(1e6 + 51.0))[0].silent_for, Duration::from_secs(101));
    assert_eq!(planner.last_success("job"), Some(Timestamp(0)));
}

#[test]
fn a_delay_begins_at_the_end_of_the_last_run() {
    let mut planner = planner([job("job", When::Delay(Duration::from_secs(10)))], at(0.0));
    assert!(matches!(planner.due(at(10.0))[..], [Action::Start(_)]));
    assert_eq!((planner.due(at(50.0)), planner.wait(at(50.0))), (vec![], None));
    planner.finished("job", RunOutcome::Succeeded, at(60.0));
    assert_eq!(planner.wait(at(60.0)), Some(Duration::from_secs(10)));
}

#[test]
fn an_event_starts_only_its_jobs() {
    let on = job("on", When::On(vec![JobEvent::Startup]));
    let mut planner = planner([on, every("job", 10), job("end", When::On(vec![JobEvent::Shutdown]))], at(0.0));
    assert_eq!(planner.event(JobEvent::Startup, at(1.0)), []);
    let (fired, _) = run(&mut planner, at(1.0));
    assert_eq!((fired.len(), fired[0].job.as_str(), fired[0].trigger), (1, "on", Trigger::Event));
}

#[test]
fn jitter_is_random_or_stable_and_is_the_same_for_the_same_seed() {
    let waits = |is_stable: bool, process: u64| -> Vec<i64> {
        let mut spec = every("job", 100);
        spec.jitter = Jitter { max: Duration::from_secs(20), is_stable };
        let seeds = Seeds { process, machine: 7 };
        let mut planner = Planner::new(schedule([spec]), &SchedulerState::default(), seeds, at(0.0));
        let wait = |n: u32| {
            let now = at(f64::from(n) * 100.0 + 50.0);
            run(&mut planner, now);
            planner.next("job", now).unwrap().since(now.wall) - 50_000_000
        };
        (0..20).map(wait).collect()
    };
    assert_eq!(waits(false, 1), waits(false, 1));
    assert_ne!(waits(false, 1), waits(false, 2));
    assert_eq!(waits(true, 1), waits(true, 2));
    assert!(waits(true, 1).windows(2).all(|pair| pair[0] == pair[1]));
    assert!(waits(false, 3).iter().all(|wait| (0..=20_000_000).contains(wait)));
}

#[test]
fn a_new_schedule_keeps_the_phase_of_unchanged_jobs() {
    let mut planner = planner([every("kept", 30), every("changed", 30), every("gone", 30)], at(0.0));
    let mut kept = every("kept", 30);
    kept.timeout = Duration::from_secs(1);
    let changes = planner.replace(schedule([kept, every("changed", 60), every("new", 10)]), at(20.0));
    let next = |seconds: f64| Some(at(seconds).wall);
    let expected = [("kept", next(30.0)), ("changed", next(80.0)), ("new", next(30.0))];
    assert_eq!(changes.next, expected.map(|(name, at)| (name.to_owned(), at)));
    for (name, at_next) in &changes.next {
        assert_eq!(planner.next(name, at(20.0)), *at_next, "the announced instant holds");
    }
    assert_eq!(
        (changes.added, changes.changed),
        (vec!["new".to_owned()], vec!["kept".to_owned(), "changed".to_owned()])
    );
    assert_eq!(changes.removed, ["gone"]);
    assert_eq!(started(&mut planner, at(30.0)), ["kept", "new"], "a new timeout does not change the phase");
}

#[test]
fn a_paused_job_does_not_run_and_reports_the_missed_instants_when_resumed() {
    let mut planner = planner([every("job", 30)], at(0.0));
    assert!(planner.pause("job", "a move") && !planner.pause("other", ""));
    assert_eq!((planner.due(at(100.0)), planner.wait(at(100.0))), (vec![], None));
    let actions = planner.resume("job", at(105.0)).unwrap();
    let skip = one_skip(&actions);
    assert_eq!((skip.count, skip.first, skip.reason.as_str()), (3, Timestamp(30_000_000), "paused: a move"));
    assert_eq!(planner.due(at(134.9)), []);
    assert_eq!(run(&mut planner, at(135.0)), (vec![planner_firing(135.0)], vec![]));
}

fn planner_firing(seconds: f64) -> Firing {
    let scheduled_at = at(seconds).wall;
    Firing { job: "job".to_owned(), trigger: Trigger::Schedule, scheduled_at, attempt: 1, window: None }
}

#[test]
fn firing_tables_of_adjoining_spans_adjoin() {
    let wall = When::Every { period: Duration::from_secs(600), align: Align::Wall };
    let mut jittered = job("wall", wall);
    jittered.jitter = Jitter { max: Duration::from_secs(60), is_stable: false };
    let jobs = || schedule([cron("cron", "*/10 * * * *"), jittered.clone()]);
    let table = |from: u64, seconds: u64| -> Vec<(String, Timestamp)> {
        simulate(jobs(), at(from as f64).wall, Duration::from_secs(seconds)).collect()
    };
    let whole = table(0, 7_200);
    assert_eq!(whole[..2], [("cron".to_owned(), Timestamp(0)), ("wall".to_owned(), Timestamp(0))]);
    assert_eq!(whole.len(), 24, "the span excludes its end");
    for cut in [1, 600, 601, 3_599, 3_600] {
        assert_eq!([table(0, cut), table(cut, 7_200 - cut)].concat(), whole, "{cut}");
    }
}

#[test]
fn a_job_that_the_schedule_never_starts_has_an_empty_table() {
    let mut off = every("off", 10);
    off.enabled = false;
    let jobs = schedule([off, job("on", When::On(vec![JobEvent::Startup]))]);
    assert_eq!(simulate(jobs, Timestamp(0), Duration::from_secs(1_000)).count(), 0);
}

#[test]
fn a_thousand_jobs_are_simulated_in_order() {
    let periods = (0..500).map(|n| every(&format!("every-{n}"), 30 + n % 90));
    let crons = (0..500).map(|n| cron(&format!("cron-{n}"), &format!("{} */{} * * * *", n % 60, 1 + n % 20)));
    let (mut fired, mut last) = (0, Timestamp(0));
    for (_, at) in simulate(schedule(periods.chain(crons)), Timestamp(0), Duration::from_secs(7_200)) {
        assert!(at >= last);
        (fired, last) = (fired + 1, at);
    }
    assert!(fired > 50_000, "{fired}");
}

proptest! {
    #[test]
    fn runs_and_skips_together_are_the_periods_that_passed(
        period in 1_u64..50, looks in prop::collection::vec(1_u64..200, 1..60),
    ) {
        let mut planner = planner([every("job", period)], at(0.0));
        let (mut now, mut counted) = (0, 0);
        for look in looks {
            now += look;
            let (fired, skips) = run(&mut planner, at(now as f64));
            counted += fired.len() as u64 + skips.iter().map(|skip| skip.count).sum::<u64>();
        }
        prop_assert_eq!(counted, now / period);
    }

    #[test]
    fn successful_windows_have_no_gap_and_no_overlap(
        is_cron in any::<bool>(), retries in 0_u32..3,
        steps in prop::collection::vec((1_u64..400, 0_u8..14), 1..200),
    ) {
        let mut spec = if is_cron { cron("job", "* * * * *") } else { every("job", 60) };
        spec.window = true;
        spec.overlap = Overlap::Queue;
        spec.retry = Retry { max: retries, backoff: Duration::from_secs(7), jitter: None };
        spec.requires = vec![Requirement::DISK_FREE];
        let mut planner = planner([spec.clone()], at(0.0));
        let (mut state, mut boot, mut now) = (planner.take_changed_state().unwrap(), 0, 0);
        let (mut running, mut covered): (Option<Firing>, Timestamp) = (None, Timestamp(0));
        for (seconds, what) in steps {
            now += seconds;
            let clock = |boot: u64| Now { wall: at(now as f64).wall, monotonic: Duration::from_secs(now - boot) };
            if let (Some(firing), 0..=7) = (&running, what) {
                let succeeded = what < 4;
                if succeeded {
                    let (from, to) = firing.window.unwrap();
                    prop_assert_eq!(from, covered);
                    prop_assert!(to > from);
                    covered = to;
                }
                let outcome = if succeeded { RunOutcome::Succeeded } else { RunOutcome::Failed };
                planner.finished("job", outcome, clock(boot));
                running = None;
            }
            match what {
                8 => { planner.pause("job", "a move"); }
                9 => { planner.resume("job", clock(boot)); }
                10 => {
                    (boot, running) = (now, None);
                    planner = Planner::new(schedule([spec.clone()]), &state, Seeds::default(), clock(boot));
                }
                12 => planner.set_unmet(vec![(Requirement::DISK_FREE, "it is full".to_owned())]),
                13 => planner.set_unmet(Vec::new()),
                11 => if let Ok(firing) = planner.start_now("job", clock(boot)) { running = Some(firing) },
                _ => {}
            }
            for action in planner.due(clock(boot)) {
                if let Action::Start(firing) = action {
                    prop_assert!(running.is_none());
                    running = Some(firing);
                }
            }
            if let Some(changed) = planner.take_changed_state() {
                state = changed;
            }
        }
    }
}
