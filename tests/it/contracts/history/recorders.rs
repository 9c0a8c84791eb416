//! Dead letters, and several recorders that share a history.

use tapekeeper::history::{Batch, DeadLetter, JobRun, LetterSource, Retention};

use super::HistoryStore;
use super::rows::{dead_letter, job_run};

pub async fn a_dead_letter_is_identified_by_its_offset_in_the_log(store: &dyn HistoryStore) {
    let history = store.open();
    let letters: Vec<_> = (0..5).map(dead_letter).collect();
    for _ in 0..2 {
        let batch = Batch { dead_letters: letters.clone(), ..Batch::default() };
        history.insert(&batch).await.unwrap();
    }
    assert_eq!(history.dead_letter_count(None).await.unwrap(), 5);
    let newest = history.dead_letters(None, 2).await.unwrap();
    assert_eq!(newest, [letters[4].clone(), letters[3].clone()]);
}

pub async fn dead_letters_and_runs_of_several_recorders_stay_apart(store: &dyn HistoryStore) {
    let history = store.open();
    let of = |recorder: &str, mut letter: DeadLetter| {
        letter.identify(&recorder.into());
        letter
    };
    let over_rest = |payload: &'static [u8]| {
        let (source, payload) = (LetterSource::Rest, payload.into());
        DeadLetter { source, partition: -1, offset: -1, payload, ..dead_letter(9) }
    };
    let letters = [
        of("north", dead_letter(7)),
        of("south", dead_letter(7)),
        of("south", over_rest(b"one")),
        of("south", over_rest(b"two")),
    ];
    for token in ["once", "twice"] {
        let batch = Batch { dead_letters: letters.to_vec(), token: token.to_owned(), ..Batch::default() };
        history.insert(&batch).await.unwrap();
    }
    assert_eq!(history.dead_letter_count(None).await.unwrap(), 4);
    assert_eq!(history.dead_letter_count(Some("south")).await.unwrap(), 3);
    assert_eq!(history.dead_letters(Some("north"), 9).await.unwrap(), letters[..1]);
    let run = |number: i64, recorder: &str| JobRun { recorder: recorder.to_owned(), ..job_run(number) };
    for run in [run(1, "north"), run(3, "south"), run(5, "south")] {
        history.put_run(&run).await.unwrap();
    }
    assert_eq!(history.runs(Some("odd"), Some("north"), 9).await.unwrap(), [run(1, "north")]);
    assert_eq!(history.runs(None, Some("south"), 1).await.unwrap(), [run(5, "south")]);
    let retention = Retention { runs_per_job: Some(1), ..Retention::default() };
    assert_eq!(history.retain(&retention).await.unwrap(), 1, "each recorder keeps its own number of runs");
    assert_eq!(history.runs(None, None, 9).await.unwrap(), [run(5, "south"), run(1, "north")]);
}
