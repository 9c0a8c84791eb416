//! Finds what a cron pattern says and the parser accepts or refuses without a word of help: steps that never take a
//! step, empty items, nicknames of other programs. Pure.

use super::problem::did_you_mean;

/// The nicknames that the parser knows.
const NICKNAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];
/// The fields of a pattern with seconds: name, lowest and highest value.
const FIELDS: [(&str, u32, u32); 6] =
    [("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7)];

/// A mistake, and what to write instead.
pub(super) struct Mistake {
    pub(super) what: String,
    pub(super) help: String,
}

/// The first mistake of a pattern; `None` leaves it to the parser.
pub(super) fn find(text: &str) -> Option<Mistake> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    if let Some(nickname) = fields.first().filter(|field| field.starts_with('@')) {
        return wrong_nickname(nickname);
    }
    let names = FIELDS.len().checked_sub(fields.len()).filter(|skipped| *skipped <= 1)?;
    FIELDS[names..].iter().zip(fields).find_map(|(field, written)| wrong_field(*field, written))
}

fn wrong_nickname(nickname: &str) -> Option<Mistake> {
    let lower = nickname.to_lowercase();
    let help = match lower.as_str() {
        "@reboot" | "@startup" => "remove `cron` and write `on = [\"startup\"]`".to_owned(),
        "@midnight" => "write `@daily`".to_owned(),
        "@every" => "remove `cron` and write `every = \"5m\"`".to_owned(),
        known if NICKNAMES.contains(&known) => return None,
        other => did_you_mean(other, NICKNAMES).unwrap_or_else(|| format!("known: {}", NICKNAMES.join(", "))),
    };
    Some(Mistake { what: format!("`{nickname}` is not known here"), help })
}

fn wrong_field((name, lowest, highest): (&str, u32, u32), written: &str) -> Option<Mistake> {
    for item in written.split(',') {
        if item.is_empty() {
            let what = format!("{name} `{written}`: the list has an empty item");
            return Some(Mistake { what, help: "remove the comma, or write the value that is missing".to_owned() });
        }
        let Some((range, step)) = item.split_once('/') else { continue };
        // Names of months and weekdays, and what is no number, are the parser's.
        let bounds = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => Some((lowest, highest)),
            Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
            None => range.parse().ok().map(|first| (first, highest)),
        };
        let (Some((first, last)), Ok(step)) = (bounds, step.parse::<u64>()) else { continue };
        let longest = u64::from(last.saturating_sub(first)).max(1);
        if step > longest {
            let what = format!("{name} `{item}`: a step of {step} leaves the range, so only {first} would remain");
            let help = format!("write a step up to {longest}, or `{first}`; for other periods write `every = \"90m\"`");
            return Some(Mistake { what, help });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that a mistake and its help contain these words.
    fn check(text: &str, what: &str, help: &str) {
        let found = find(text).unwrap_or_else(|| panic!("{text} has a mistake"));
        assert!(found.what.contains(what) && found.help.contains(help), "{text}: {}: {}", found.what, found.help);
    }

    #[test]
    fn a_step_beyond_its_range_is_a_mistake() {
        check("*/61 * * * *", "minute `*/61`: a step of 61", "up to 59");
        check("*/60 * * * *", "minute `*/60`", "up to 59");
        check("0 */90 * * *", "hour `*/90`", "every");
        check("0 0 */24 * * *", "hour `*/24`", "up to 23");
        check("0 0 1-5/9 * *", "day `1-5/9`", "up to 4");
        check("0 0 1 1,2-4/12 *", "month `2-4/12`", "up to 2");
        check("50/20 * * * *", "minute `50/20`", "up to 9");
        check("*/99999999999 * * * *", "minute", "up to 59");
    }

    #[test]
    fn an_empty_item_is_a_mistake() {
        for text in ["0 0 * * 1,,3", "0 0 * * 1,", "0 0 * * ,1", ", * * * *"] {
            check(text, "empty item", "comma");
        }
    }

    #[test]
    fn a_nickname_of_another_program_is_translated() {
        check("@reboot", "@reboot", "on = [\"startup\"]");
        check("@midnight", "@midnight", "`@daily`");
        check("@every 5m", "@every", "every = ");
        check("@dayly", "@dayly", "`@daily`");
        check("@lunch", "@lunch", "known: @yearly");
    }

    #[test]
    fn a_pattern_that_means_what_it_says_is_none() {
        for text in [
            "*/59 * * * *",
            "*/30 * * * * *",
            "0 */12 * * *",
            "0 0 1-31/15 * *",
            "0 0 * * MON-FRI/2",
            "0 0 L * *",
            "0 0 * * 5#2",
            "0 0 15W * *",
            "5-5/1 * * * *",
            "@daily",
            "@HOURLY",
            "0 0 * JAN,MAR *",
            "1 2 3",
        ] {
            assert!(find(text).is_none(), "{text}");
        }
    }
}
