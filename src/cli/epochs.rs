//! `--epoch N|all`: which numberings of a symbol's trades a command reads.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;

use crate::history::History;
use crate::market::Stream;

/// The numberings that a command reads. Without the argument it is the newest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochArg {
    /// One of them: 0 is the first.
    One(i64),
    /// Each one, oldest first.
    All,
}

impl FromStr for EpochArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<i64>() {
            Ok(epoch) if epoch >= 0 => Ok(Self::One(epoch)),
            _ if text == "all" => Ok(Self::All),
            _ => Err(format!("`{text}` is neither `all` nor the number of an epoch (0 is the first)")),
        }
    }
}

/// A view of history for each numbering of a stream that `epoch` selects. Klines have only one.
pub async fn views(
    history: &Arc<dyn History>,
    stream: &Stream,
    epoch: Option<EpochArg>,
) -> anyhow::Result<Vec<Arc<dyn History>>> {
    Ok(match epoch {
        _ if !stream.channel.has_trades() => vec![history.clone()],
        None => vec![history.clone()],
        Some(EpochArg::One(epoch)) => vec![history.at_epoch(epoch)],
        Some(EpochArg::All) => {
            let epochs = history.epochs().await.context("read the epochs")?;
            let of_stream = epochs.iter().filter(|row| row.stream() == *stream);
            let newest = of_stream.map(|row| row.epoch).max().unwrap_or(0);
            (0..=newest).map(|epoch| history.at_epoch(epoch)).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_number_or_all() {
        assert_eq!("0".parse(), Ok(EpochArg::One(0)));
        assert_eq!("12".parse(), Ok(EpochArg::One(12)));
        assert_eq!("all".parse(), Ok(EpochArg::All));
        for text in ["", "-1", "newest", "1.5"] {
            assert!(text.parse::<EpochArg>().unwrap_err().contains(text), "{text}");
        }
    }
}
