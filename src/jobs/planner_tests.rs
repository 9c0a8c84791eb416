//! What is due when, on two clocks that a test moves.

use proptest::prelude::*;

use super::*;
use crate::jobs::spec::{TaskArgs, TaskKind};

fn job(name: &str, when: When) -> JobSpec {
    JobSpec {
        name: name.to_owned(),
        task: TaskKind::StateSnapshot,
        enabled: true,
        description: String::new(),
        when,
        timeout: Duration::from_secs(60),
        blocking: false,
        args: TaskArgs::default(),
    }
}

fn every(name: &str, seconds: u64) -> JobSpec {
    job(name, When::Every(Duration::from_secs(seconds)))
}

fn cron(text: &str, timezone: Tz) -> JobSpec {
    job("job", When::Cron { text: text.to_owned(), timezone })
}

fn at(seconds: f64) -> Now {
    Now { wall: Timestamp((seconds * 1e6) as i64), monotonic: Duration::from_secs_f64(seconds) }
}

fn planner(jobs: impl IntoIterator<Item = JobSpec>, now: Now) -> Planner {
    Planner::new(Schedule { jobs: jobs.into_iter().collect() }, now)
}

#[test]
fn a_period_fires_once_a_period() {
    let mut planner = planner([every("job", 30)], at(0.0));
    assert_eq!(planner.wait(at(0.0)), Some(Duration::from_secs(30)));
    assert_eq!(planner.due(at(29.9)), []);
    assert_eq!(planner.due(at(30.0)).len(), 1);
    assert_eq!(planner.due(at(30.1)), []);
    assert_eq!(planner.due(at(60.2))[0].scheduled_at, Timestamp(60_000_000));
}

#[test]
fn a_stall_is_one_run_and_a_count() {
    for (stall, missed) in [(30.0, 0), (75.0, 1), (3_000.0, 99)] {
        let mut planner = planner([every("job", 30), cron("*/30 * * * * *", Tz::UTC)], at(0.0));
        let firings = planner.due(at(stall));
        assert_eq!(firings.iter().map(|firing| firing.missed).collect::<Vec<_>>(), [missed, missed], "{stall}");
        assert_eq!(planner.due(at(stall + 0.1)), []);
        assert_eq!(planner.due(at(stall + 30.0)).len(), 2, "it goes on after a stall");
    }
}

#[test]
fn a_step_of_the_wall_clock_moves_no_period_and_silences_no_cron() {
    for step in [3_600.0, -3_600.0, 86_400.0, -86_400.0] {
        let start = 1_700_000_000.0;
        let mut planner = planner([every("job", 30), cron("0 */5 * * * *", Tz::UTC)], at(start));
        let (mut periods, mut crons) = (0, 0);
        for second in 1..=1_200 {
            let second = f64::from(second);
            let wall = if second > 400.0 { start + second + step } else { start + second };
            let now = Now { wall: at(wall).wall, monotonic: at(start + second).monotonic };
            for firing in planner.due(now) {
                if firing.scheduled_at.micros() % 300_000_000 == 0 && firing.job == "job" {
                    crons += 1;
                } else {
                    periods += 1;
                }
            }
        }
        assert!((38..=40).contains(&(periods + crons - crons.min(5))), "{step}: {periods} periods, {crons} crons");
        assert!(crons >= 4, "{step}: {crons} crons");
    }
}

/// Every instant of a pattern in a range, as the planner fires it second by second is too slow: by its own steps.
fn instants(text: &str, timezone: Tz, from: &str, to: &str) -> Vec<Timestamp> {
    let cron = parse_cron(text).unwrap();
    let (from, to) = (Timestamp::parse(from).unwrap(), Timestamp::parse(to).unwrap());
    let mut found = Vec::new();
    let mut next = next_cron(&cron, timezone, from);
    while let Some(instant) = next.filter(|at| *at < to) {
        found.push(instant);
        next = next_cron(&cron, timezone, instant);
    }
    found
}

fn local(text: &str, timezone: Tz, from: &str, to: &str) -> Vec<String> {
    let shown = |at: &Timestamp| timezone.timestamp_opt(at.0 / 1_000_000, 0).unwrap().to_rfc3339();
    instants(text, timezone, from, to).iter().map(shown).collect()
}

#[test]
fn a_local_time_that_does_not_exist_runs_once_after_the_jump() {
    let runs = local("0 30 2 * * *", Tz::Europe__Berlin, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
    assert_eq!(runs, ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
}

#[test]
fn a_local_time_that_happens_twice_runs_once_the_first_time() {
    let runs = local("0 30 2 * * *", Tz::Europe__Berlin, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    assert_eq!(runs, ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]);
}

#[test]
fn a_cron_that_means_a_period_never_pauses_and_never_doubles() {
    for timezone in [Tz::Europe__Berlin, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::UTC] {
        for (from, to) in [
            ("2026-03-07", "2026-03-09"),
            ("2026-03-28", "2026-03-30"),
            ("2026-04-04", "2026-04-06"),
            ("2026-10-03", "2026-10-05"),
            ("2026-10-24", "2026-10-26"),
            ("2026-10-31", "2026-11-02"),
        ] {
            let found = instants("*/30 * * * * *", timezone, from, to);
            let regular = found.windows(2).all(|pair| pair[1].since(pair[0]) == 30_000_000);
            assert!(regular && found.len() == 2 * 2_880 - 1, "{timezone} {from}: {} instants", found.len());
        }
    }
}

#[test]
fn a_sub_second_now_does_not_leak_into_the_instants() {
    let cron = parse_cron("*/5 * * * *").unwrap();
    assert_eq!(next_cron(&cron, Tz::UTC, Timestamp(1_234_567)), Some(Timestamp(300_000_000)));
}

#[test]
fn a_pattern_without_a_date_never_fires() {
    let cron = parse_cron("0 0 0 31 2 *").unwrap();
    assert_eq!(next_cron(&cron, Tz::UTC, Timestamp(0)), None);
}

#[test]
fn a_new_schedule_leaves_unchanged_jobs_their_phase() {
    let mut planner = planner([every("kept", 30), every("changed", 30), every("gone", 30)], at(0.0));
    let schedule = Schedule { jobs: vec![every("kept", 30), every("changed", 60), every("new", 10)] };
    let changes = planner.replace(schedule, at(20.0));
    assert_eq!((changes.added, changes.changed), (vec!["new".to_owned()], vec!["changed".to_owned()]));
    assert_eq!(changes.removed, ["gone"]);
    let names: Vec<String> = planner.due(at(30.0)).into_iter().map(|firing| firing.job).collect();
    assert_eq!(names, ["kept", "new"]);
}

#[test]
fn a_paused_job_does_not_run_and_resumes_from_now() {
    let mut planner = planner([every("job", 30)], at(0.0));
    assert!(planner.pause("job", true, at(10.0)) && !planner.pause("other", true, at(10.0)));
    assert_eq!((planner.due(at(100.0)), planner.wait(at(100.0))), (vec![], None));
    planner.pause("job", false, at(105.0));
    assert_eq!(planner.due(at(134.9)), []);
    assert_eq!(planner.due(at(135.0))[0].missed, 0);
}

proptest! {
    #[test]
    fn runs_and_misses_together_are_the_periods_that_passed(
        period in 1_u64..50, looks in prop::collection::vec(1_u64..200, 1..60),
    ) {
        let mut planner = planner([every("job", period)], at(0.0));
        let (mut now, mut counted) = (0, 0);
        for look in looks {
            now += look;
            counted += planner.due(at(now as f64)).iter().map(|firing| 1 + firing.missed).sum::<u64>();
        }
        prop_assert_eq!(counted, now / period);
    }
}
